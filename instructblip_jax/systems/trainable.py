"""Named trainable sets: a system split by path prefixes into what trains and what is frozen."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from flax import nnx

Prefixes = tuple[str, ...]
"""Leading pieces of paths, such as "vit/post_norm"; "*" stands for any pieces, and "" is above all."""
ADAPTERS = "llm/*/lora"
"""The prefix of a language model's adapters, which are there only if a trainable set has it (`layers.lora`)."""


def prefixes(name: str | None, sets: Mapping[str, Prefixes]) -> Prefixes:
    """The path prefixes of a named set; without a name, of the first. Raises ValueError for an unknown name."""
    chosen = name or next(iter(sets))
    if chosen not in sets:
        raise ValueError(f"trainable set {chosen!r} is unknown; there are {', '.join(sorted(sets))}")
    return sets[chosen]


def trains(path: str, trained: Prefixes) -> bool:
    """True if the parameter at ``path`` is under one of the prefixes."""
    return any(not prefix or fnmatchcase(path, prefix) or fnmatchcase(path, f"{prefix}/*") for prefix in trained)


def touches(path: str, trained: Prefixes) -> bool:
    """True if anything at ``path`` or below it trains, adapters aside."""
    plain = tuple(prefix for prefix in trained if "*" not in prefix)
    return trains(path, plain) or any(prefix.startswith(f"{path}/") for prefix in plain)


def path_filter(trained: Prefixes) -> Callable[[tuple, Any], bool]:
    """The NNX filter of these prefixes."""
    return lambda path, _: trains("/".join(map(str, path)), trained)


def split(system: nnx.Module, trained: Prefixes) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """graph, and the variables (with their metadata) of the trained and of the frozen part, as nested states.

    Raises ValueError for a prefix that matches no parameter: a misspelt one would silently train nothing.
    """
    states: list[nnx.State]
    graph, *states = nnx.split(system, path_filter(trained), ...)
    train, frozen = states
    paths = ["/".join(map(str, path)) for path, _ in nnx.to_flat_state(train)]
    for prefix in trained:
        if not any(trains(path, (prefix,)) for path in paths):
            raise ValueError(f"trainable set: this model has no parameter under {prefix!r}")
    return graph, train, frozen
