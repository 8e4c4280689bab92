"""Adapters on their way out: merged into the kernels beside them, or as a directory of the peft library."""

from collections.abc import Mapping
from functools import partial

import numpy as np

from instructblip_jax.convert.rule import ADAPTER, PEFT
from instructblip_jax.convert.shards import Shards
from instructblip_jax.convert.write import Lazy, Tensor, read, stored

_A, _B = (end for end, _ in ADAPTER.values())


def merged(trained: Mapping[str, Tensor], shards: Shards, scale: float) -> dict[str, Tensor]:
    """``trained``, by Hugging Face name, with W + scale * B A for the two matrices of each adapter.

    W is the tensor of the source, whatever it was rounded to in training. The sum is computed in float32 and has the
    type in which the source stores W.
    """
    found = {name: tensor for name, tensor in trained.items() if not name.startswith(PEFT)}
    for name, a in trained.items():
        if name.startswith(PEFT) and name.endswith(_A):
            module = name.removesuffix(_A)
            weight = f"{module.removeprefix(PEFT)}.weight"
            kernel = stored(shards, weight)
            found[weight] = Lazy(kernel.shape, kernel.dtype, partial(_sum, kernel, a, trained[module + _B], scale))
    return found


def _sum(kernel: Lazy, a: Tensor, b: Tensor, scale: float) -> np.ndarray:
    added = np.float32(scale) * (read(b) @ read(a))
    return (kernel.read().astype(np.float32) + added).astype(kernel.dtype)
