"""Named trainable sets, and a system split by one into what trains and what is frozen."""

from collections.abc import Callable
from typing import Any

from flax import nnx

TRAINABLE: dict[str, tuple[tuple[str, ...], ...]] = {
    "qformer": (("qformer",), ("query_tokens",), ("projector",)),
    "original": (("qformer",), ("query_tokens",), ("projector",), ("vit", "post_norm")),
    "projection": (("projector",),),
    "vision": (("qformer",), ("query_tokens",), ("projector",), ("vit",)),
}
"""Name -> prefixes of the parameter paths that train.

``qformer`` is the default; ``original`` adds the norm after the vision tower, as the original code trains it (its
freezing loop covers the tower only); ``projection`` is the linear map into the language model alone; ``vision`` adds
the whole vision tower to ``original``, as BLIP-2 is fine-tuned (arXiv 2301.12597, section 4.2).
"""


def trainable(name: str) -> Callable[[tuple, Any], bool]:
    """The NNX filter of a named trainable set. Raises ValueError for an unknown name."""
    prefixes = _prefixes(name)
    return lambda path, _: any(tuple(path[: len(prefix)]) == prefix for prefix in prefixes)


def enters_tower(name: str) -> bool:
    """Whether a named trainable set holds anything of the vision tower before its last norm, so that gradients have to
    go through it. Raises ValueError for an unknown name."""
    return any(prefix[0] == "vit" and prefix[1:] != ("post_norm",) for prefix in _prefixes(name))


def _prefixes(name: str) -> tuple[tuple[str, ...], ...]:
    if name not in TRAINABLE:
        raise ValueError(f"trainable set {name!r} is unknown; there are {', '.join(sorted(TRAINABLE))}")
    return TRAINABLE[name]


def split(system: nnx.Module, name: str) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    """graph, and the variables (with their metadata) of the trained and of the frozen part, as nested states.

    Every prefix of the set must match something: a misspelt filter would otherwise train nothing, silently.
    """
    states: list[nnx.State]
    graph, *states = nnx.split(system, trainable(name), ...)
    train, frozen = states
    paths = [path for path, _ in nnx.to_flat_state(train)]
    for prefix in TRAINABLE[name]:
        if not any(tuple(path[: len(prefix)]) == prefix for path in paths):
            raise ValueError(f"trainable set {name!r}: this model has no parameter under {'/'.join(prefix)}")
    return graph, train, frozen
