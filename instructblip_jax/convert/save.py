"""Our arrays -> Hugging Face tensors: the inverse of `load`, with the same table."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial

import jax
import numpy as np

from instructblip_jax.convert.rule import Rule, Shape, for_paths
from instructblip_jax.convert.write import Lazy
from instructblip_jax.mesh import fetch, fetch_entry


@dataclasses.dataclass(frozen=True)
class _Source:
    """The array, or the ``layer`` of a stack, for a tensor or one slice of a fused tensor."""

    rule: Rule
    array: jax.Array
    layer: int | None

    @property
    def parts(self) -> int:
        return self.rule.transform.parts

    @property
    def shape(self) -> Shape:
        return self.rule.transform.shape(self.array.shape if self.layer is None else self.array.shape[1:])

    def read(self) -> np.ndarray:
        array = fetch(self.array) if self.layer is None else fetch_entry(self.array, self.layer)
        return self.rule.transform.save(array)


def lazy(rules: Mapping[str, Rule], arrays: Mapping[str, jax.Array]) -> dict[str, Lazy]:
    """Hugging Face name -> tensor of every parameter in ``arrays`` (path -> array), slices of fused ones joined.

    A tensor is fetched when it is read, and only its layer of a stack. Tensors of arrays on several hosts are
    `Lazy.collective`. Raises ValueError if ``arrays`` has some but not all slices of a fused tensor.
    """
    rules = for_paths(rules, arrays)
    found: dict[str, dict[int, _Source]] = {}
    for path, array in arrays.items():
        rule = rules[path]
        for index, name in enumerate(rule.names(array.shape)):
            found.setdefault(name, {})[rule.transform.part] = _Source(rule, array, index if rule.stacked else None)
    partly = sorted(name for name, slots in found.items() if any(len(slots) < x.parts for x in slots.values()))
    if partly:
        raise ValueError(f"only some slices of {', '.join(partly)} are given; a fused tensor is written whole")
    return {name: _joined([slots[n] for n in sorted(slots)]) for name, slots in found.items()}


def _joined(slices: list[_Source]) -> Lazy:
    array, shape = slices[0].array, slices[0].shape
    if len(slices) > 1:
        shape = (shape[0] * len(slices), *shape[1:])
    return Lazy(shape, np.dtype(array.dtype), partial(_read, slices), collective=not array.is_fully_addressable)


def _read(slices: list[_Source]) -> np.ndarray:
    return slices[0].read() if len(slices) == 1 else np.concatenate([one.read() for one in slices])


def tensors(rules: Mapping[str, Rule], arrays: Mapping[str, jax.Array]) -> Iterator[tuple[str, np.ndarray]]:
    """`lazy`, read one after the other: yields (Hugging Face name, tensor). All hosts must take all of them."""
    for name, tensor in lazy(rules, arrays).items():
        yield name, tensor.read()
