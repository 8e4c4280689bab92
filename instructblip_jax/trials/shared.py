"""Determines which frozen parts systems share: whether they have the same tower and the same language model."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from instructblip_jax import digests
from instructblip_jax.model import Model
from instructblip_jax.plan.tracing import Outline
from instructblip_jax.run.config import RunConfig
from instructblip_jax.systems.protocol import LANGUAGE, TOWER

ROLES = (TOWER, LANGUAGE)
TRAINED = "trained"
"""Replaces the letter for a part without frozen parameters."""

Arrays = dict[str, Any]
Digests = dict[str, int]


def letters(runs: Mapping[str, RunConfig], systems: Mapping[str, Outline]) -> dict[str, dict[str, str]]:
    """System -> role -> a letter for each frozen part, `TRAINED`, or "" if the system has no such part.

    Two parts have the same letter if their common parameters are equal. One system may have fewer layers of a tower, or
    a language model with more tokens than another; only what both have is compared. The models are loaded one after the
    other, in bfloat16.
    """
    least: dict[tuple[str, str], tuple[int, ...]] = {}
    for system in systems.values():
        for role, part in _parts(system):
            for path, x in below(part, system.frozen).items():
                same = least.get((role, path), x.shape)
                # If even the axes differ, nothing is equal, and either shape will do.
                least[role, path] = tuple(map(min, same, x.shape)) if len(same) == len(x.shape) else same
    known: dict[str, list[Digests]] = {role: [] for role in ROLES}
    found: dict[str, dict[str, str]] = {}
    for name, run in runs.items():
        own: dict[str, list[str]] = {role: [] for role in ROLES}
        model = Model.from_pretrained(run.model, **run.model_options(dtype="bfloat16", int8=False, scan_layers=True))
        for role, part in _parts(systems[name]):
            frozen = below(part, model.frozen)
            cut = {path: _cut(x, least[role, path]) for path, x in frozen.items()}
            own[role].append(_letter(digests.of_host(cut), known[role]) if frozen else TRAINED)
        found[name] = {role: " + ".join(own[role]) for role in ROLES}
    return found


def below(part: str, arrays: Mapping[str, Any]) -> Arrays:
    """The arrays of a part, by their paths within it."""
    return {path.removeprefix(f"{part}/"): x for path, x in arrays.items() if path.startswith(f"{part}/")}


def _parts(system: Outline) -> list[tuple[str, str]]:
    """(role, part) of the towers and language models that have parameters."""
    return [
        (role, part)
        for part, role in system.config.parts.items()
        if role in ROLES and (below(part, system.frozen) or below(part, system.train))
    ]


def _cut(x: Any, shape: tuple[int, ...]) -> np.ndarray:
    x = np.asarray(x)
    return np.ascontiguousarray(x[tuple(map(slice, shape))]) if x.ndim == len(shape) else x


def _letter(own: Digests, known: list[Digests]) -> str:
    """The letter of a part; a new part is added to ``known``."""
    for number, other in enumerate(known):
        common = own.keys() & other.keys()
        # A few equal paths may be constants, such as the scales of new norms.
        if 2 * len(common) > min(len(own), len(other)) and all(own[path] == other[path] for path in common):
            return _name(number)
    known.append(own)
    return _name(len(known) - 1)


def _name(number: int) -> str:
    """0 -> A, 25 -> Z, 26 -> A1 ..."""
    turn, place = divmod(number, 26)
    return chr(ord("A") + place) + (str(turn) if turn else "")
