"""LoRA (arXiv 2106.09685): two trainable low-rank matrices in addition to a frozen kernel of any stored type."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike


@dataclasses.dataclass(frozen=True)
class Lora:
    """Sizes of the adapters of a language model: ``y = x W + (alpha / rank) (x A) B``.

    The defaults are LLaVA-1.5's (arXiv 2310.03744, its published script): every linear layer except the head.
    ``targets``: Hugging Face's names of the linear layers that have an adapter; () is all of them.
    """

    rank: int = 128
    alpha: float = 256.0
    targets: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """Factor of the adapters' output."""
        return self.alpha / self.rank

    @classmethod
    def read(cls, options: Any, linears: Mapping[str, str]) -> "Lora":
        """``config.system.lora``, a mapping of fields. ``linears``: Hugging Face's name of each linear layer -> ours.

        Raises ValueError naming the field and its possible values.
        """
        where, fields = "config.system.lora", [field.name for field in dataclasses.fields(cls)]
        if not isinstance(options, Mapping) or not set(options) <= set(fields):
            raise ValueError(f"{where} is {options!r}; it is a mapping with the fields {', '.join(fields)}")
        made = cls(**options)
        if not isinstance(made.rank, int) or isinstance(made.rank, bool) or made.rank < 1:
            raise ValueError(f"{where}.rank is {made.rank!r}; it is a whole number, at least 1")
        if not isinstance(made.alpha, (int, float)) or isinstance(made.alpha, bool) or not made.alpha > 0:
            raise ValueError(f"{where}.alpha is {made.alpha!r}; it is a number above 0")
        targets = (made.targets,) if isinstance(made.targets, str) else made.targets
        if not isinstance(targets, (tuple, list)) or not set(targets) <= set(linears):
            raise ValueError(f"{where}.targets is {targets!r}; this language model has {', '.join(linears)}")
        return dataclasses.replace(made, alpha=float(made.alpha), targets=tuple(targets))


def begin_a(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Initial values of A [(L,) D, r]: uniform within D ** -0.5, as in PEFT."""
    # The difference is exact, so that there is only one rounding: every compiler and device draws the same bits.
    return (jax.random.uniform(key, shape, jnp.float32) - 0.5) * np.float32(2 * shape[-2] ** -0.5)


def begin_b(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Initial values of B [(L,) r, M]: zeros, so that the model starts equal to the frozen one."""
    return jnp.zeros(shape, jnp.float32)


class Adapter(nnx.Module):
    """``scale * (x A) B`` with A [(L,) D, r] and B [(L,) r, M]. ``axes``: the logical names of its layer's kernel [(L,)
    D, M]; the rank gets "embed" if the kernel's own side does not have it, so that either matrix can be sharded."""

    def __init__(
        self, shape: tuple[int, ...], axes: tuple[str | None, ...], lora: Lora, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        *layers, d_in, d_out = shape
        *stacked, first, last = axes
        self.scale, self.dtype = lora.scale, dtype
        inner, outer = (None if side == "embed" else "embed" for side in (first, last))
        a, b = begin_a(rngs.params(), (*layers, d_in, lora.rank)), begin_b(rngs.params(), (*layers, lora.rank, d_out))
        self.a = nnx.Param(a, axes=(*stacked, first, inner), compute=dtype)
        self.b = nnx.Param(b, axes=(*stacked, outer, last), compute=dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., D] -> [..., M] in the compute type."""
        rows = x.reshape(-1, x.shape[-1]).astype(self.dtype)
        narrow = rows @ self.a[...].astype(self.dtype) * self.scale
        return (narrow @ self.b[...].astype(self.dtype)).reshape(*x.shape[:-1], -1)


def attach(model: nnx.Module, lora: Lora, linears: Mapping[str, str], *, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
    """Add adapters to the targets of ``lora`` in a language model; ``linears`` as in `Lora.read`. In a stack, one
    adapter contains those of all layers."""
    names = {linears[target] for target in lora.targets or linears}
    for layer in list(_named(model, names)):
        kernel = layer.kernel
        layer.lora = Adapter(kernel.shape, kernel.get_metadata()["axes"], lora, dtype=dtype, rngs=rngs)


def _named(module: nnx.Module, names: set[str]) -> Iterator[Any]:
    """The linear layers under ``module`` that have one of these names."""
    for name, child in vars(module).items():
        if isinstance(child, nnx.Module):
            if name in names and hasattr(child, "kernel"):
                yield child
            else:
                yield from _named(child, names)
