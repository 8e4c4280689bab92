"""A rule of a conversion table, and the transforms that it may use."""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping

import jax
import numpy as np

from instructblip_jax.models.layers.lora import begin_a, begin_b
from instructblip_jax.models.layers.stack import place_of

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Transform:
    """The relation between one of our arrays and its Hugging Face tensor.

    Attributes:
      shape: our shape -> theirs.
      load: their array -> ours.
      save: our array -> theirs, or its slice of a fused tensor.
      part: index of that slice along axis 0, of ``parts``.
      parts: number of slices of the fused tensor; 1 if it is not fused.
      stored: our shape -> theirs in the files, if loading resizes it (`positions.resized`).
    """

    shape: Callable[[Shape], Shape]
    load: Callable[[np.ndarray], np.ndarray]
    save: Callable[[np.ndarray], np.ndarray]
    part: int = 0
    parts: int = 1
    stored: Callable[[Shape], Shape] | None = None

    def read(self, tensor: np.ndarray) -> np.ndarray:
        """The whole Hugging Face tensor -> our array."""
        if self.parts == 1:
            return self.load(tensor)
        size = tensor.shape[0] // self.parts
        return self.load(tensor[self.part * size : (self.part + 1) * size])

    def full_shape(self, ours: Shape) -> Shape:
        """The shape of the whole Hugging Face tensor, as it is stored."""
        whole = (self.stored or self.shape)(ours)
        return (whole[0] * self.parts, *whole[1:]) if whole else ()


IDENTITY = Transform(lambda s: s, lambda x: x, lambda x: x)
TRANSPOSE = Transform(lambda s: s[::-1], np.transpose, np.transpose)
LEADING = Transform(lambda s: (1, *s), lambda x: x[0], lambda x: x[None])
"""Theirs has a leading axis of one."""
FLAT = Transform(lambda s: s[1:], lambda x: x[None], lambda x: x[0])
"""Ours has a leading axis of one."""


def third(transform: Transform, part: int) -> Transform:
    """The same for query (0), key (1) or value (2) of a fused qkv tensor."""
    return dataclasses.replace(transform, part=part, parts=3)


def patches(size: int, channels: int = 3) -> Transform:
    """Patch convolution [V, C, size, size] <-> linear kernel [size * size * C, V] over (row, column, channel)."""
    return Transform(
        lambda s: (s[1], channels, size, size),
        lambda x: x.transpose(2, 3, 1, 0).reshape(-1, x.shape[0]),
        lambda x: x.reshape(size, size, channels, -1).transpose(3, 2, 0, 1),
    )


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of a table: our parameter and its tensor in the files.

    Attributes:
      ours: path of the parameter, joined by "/".
      theirs: name of the tensor. With "{layer}" in it the parameter is a stack [L, ...]: entry n of its first axis is
        the tensor of layer ``start`` + n * ``every``.
      transform: the relation between the two.
      others: names that older, newer or tied files use instead, tried in this order.
      every: interval of the layers that have such a tensor.
      start: index of the first of them.
      copies: number of layers that each have a copy of the one parameter; 0 if "{layer}" indexes a stack.
      new: (key, our shape) -> initial values, float32, of a parameter that the files lack, such as an adapter's.
    """

    ours: str
    theirs: str
    transform: Transform = IDENTITY
    others: tuple[str, ...] = ()
    every: int = 1
    start: int = 0
    copies: int = 0
    new: Callable[[jax.Array, Shape], jax.Array] | None = None

    @property
    def stacked(self) -> bool:
        """True if our array contains all layers."""
        return "{layer}" in self.theirs and not self.copies

    def spelled(self, names: Collection[str]) -> "Rule":
        """The rule with the first of its names that is among ``names``, or with its own if none is."""
        for name in (self.theirs, *self.others):
            if name.format(layer=self.start) in names:
                return dataclasses.replace(self, theirs=name, others=())
        return self

    def names(self, ours_shape: Shape) -> list[str]:
        """Their tensor names, one per layer."""
        if not self.stacked and not self.copies:
            return [self.theirs]
        layers = self.copies or ours_shape[0]
        return [self.theirs.format(layer=self.start + n * self.every) for n in range(layers)]

    def tensor_shape(self, ours_shape: Shape) -> Shape:
        """The shape of each of their tensors."""
        return self.transform.full_shape(ours_shape[1:] if self.stacked else ours_shape)


def renamed(rules: Iterable[Rule], prefixes: Iterable[tuple[str, str]]) -> list[Rule]:
    """The rules, with an additional name for each of the ``prefixes`` (theirs, the other's) of their own name."""
    found = []
    for rule in rules:
        more = tuple(new + rule.theirs.removeprefix(old) for old, new in prefixes if rule.theirs.startswith(old))
        found.append(dataclasses.replace(rule, others=(*rule.others, *more)))
    return found


PEFT = "base_model.model."
"""Prefix of all names in an adapter of the peft library."""
ADAPTER = {"a": (".lora_A.weight", begin_a), "b": (".lora_B.weight", begin_b)}
"""An adapter's parameter -> the suffix of its name there, and its initial values."""


def for_paths(rules: Mapping[str, Rule], paths: Iterable[str]) -> dict[str, Rule]:
    """The rules, with one for each layer of ``paths`` with separate arrays ("llm/layers/3/attn/q/kernel"), and one for
    each parameter of an adapter ("llm/layers/attn/q/lora/a"), named as in the peft library."""
    found = dict(rules)
    for path in paths:
        if part := re.fullmatch(r"(.*)/lora/(a|b)", path):
            kernel, (end, new) = rules[f"{part[1]}/kernel"], ADAPTER[part[2]]
            found[path] = Rule(path, PEFT + kernel.theirs.removesuffix(".weight") + end, TRANSPOSE, new=new)
            continue
        stacked, number = place_of(path)
        if path in found or number is None:
            continue
        rule = rules[stacked]
        layer = rule.start + number * rule.every
        others = tuple(name.format(layer=layer) for name in rule.others)
        found[path] = Rule(path, rule.theirs.format(layer=layer), rule.transform, others)
    return found


def dense(ours: str, theirs: str, *, bias: bool = True) -> list[Rule]:
    """A linear layer: torch has [out, in], we have [in, out]."""
    rules = [Rule(f"{ours}/kernel", f"{theirs}.weight", TRANSPOSE)]
    return [*rules, Rule(f"{ours}/bias", f"{theirs}.bias")] if bias else rules


def norm(ours: str, theirs: str, *, bias: bool = True) -> list[Rule]:
    """A LayerNorm, or an RMS norm without bias."""
    rules = [Rule(f"{ours}/scale", f"{theirs}.weight")]
    return [*rules, Rule(f"{ours}/bias", f"{theirs}.bias")] if bias else rules
