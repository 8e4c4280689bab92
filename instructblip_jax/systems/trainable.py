"""Named trainable sets: path prefixes that split a system into trainable and frozen parameters."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from flax import nnx

from instructblip_jax.systems.protocol import LANGUAGE

Prefixes = tuple[str, ...]
"""Path prefixes, such as "vit/post_norm"; "*" matches any components, and "" every path."""
ADAPTERS = "llm/*/lora"
"""The prefix of a language model's adapters, which exist only if the trainable set has it (`layers.lora`)."""


def prefixes(name: str | None, sets: Mapping[str, Prefixes]) -> Prefixes:
    """The path prefixes of a named set; without a name, of the default set. Raises ValueError for an unknown name."""
    chosen = name or next(iter(sets))
    if chosen not in sets:
        raise ValueError(f"trainable set {chosen!r} is unknown; expected one of {', '.join(sorted(sets))}")
    return sets[chosen]


def trains(path: str, trained: Prefixes) -> bool:
    """True if the parameter at ``path`` is under one of the prefixes."""
    return any(not prefix or fnmatchcase(path, prefix) or fnmatchcase(path, f"{prefix}/*") for prefix in trained)


def touches(path: str, trained: Prefixes) -> bool:
    """True if anything at ``path`` or below it is trainable, apart from adapters."""
    plain = tuple(prefix for prefix in trained if "*" not in prefix)
    return trains(path, plain) or any(prefix.startswith(f"{path}/") for prefix in plain)


def trains_language(name: str | None, sets: Mapping[str, Prefixes], parts: Mapping[str, str]) -> bool:
    """True if a named set trains the language model itself, not only adapters."""
    return any(trains(part, prefixes(name, sets)) for part, role in parts.items() if role == LANGUAGE)


def check_int8(
    int8: object, name: str | None, sets: Mapping[str, Prefixes], parts: Mapping[str, str], where: str = ""
) -> None:
    """Raise ValueError if the named set trains a language model whose matrices ``int8`` would round.

    ``where``: prefix of the option names ("config.").
    """
    if int8 and trains_language(name, sets, parts):
        others = ", ".join(other for other in sets if not trains_language(other, sets, parts))
        raise ValueError(
            f"{where}int8 is {int8!r}, and {where}trainable {name or next(iter(sets))!r} trains the language model: "
            "int8 matrices are for frozen parts, because a training step is much smaller than their resolution; set "
            f"{where}int8 to False"
            + (f", or {where}trainable to one of {others}" if others else "")
            + "; to answer in int8, export the run first"
        )


def path_filter(trained: Prefixes) -> Callable[[tuple, Any], bool]:
    """The NNX filter of these prefixes."""
    return lambda path, _: trains("/".join(map(str, path)), trained)


def split(system: nnx.Module, trained: Prefixes) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """graph, and the variables (with their metadata) of the trained and of the frozen part, as nested states.

    Raises ValueError for a prefix that matches no parameter, because a misspelt one would silently train nothing.
    """
    states: list[nnx.State]
    graph, *states = nnx.split(system, path_filter(trained), ...)
    train, frozen = states
    paths = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(train)]
    for prefix in trained:
        if not any(trains(path, (prefix,)) for path in paths):
            raise ValueError(f"trainable set: this model has no parameter under {prefix!r}")
    return graph, train, frozen
