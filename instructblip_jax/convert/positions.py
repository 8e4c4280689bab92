"""The vision tower's position embeddings for pictures of another size than the checkpoint's.

The class position stays; the grid of the others is resized bicubically, as the original (arXiv 2301.12597) and
transformers' `interpolate_pos_encoding` do it: torch's kernel, whose constant is -0.75, sampled at the centres of the
new cells (align_corners false), without antialiasing and with the border repeated. jax.image has another constant.
"""

import dataclasses

import numpy as np

from instructblip_jax.convert.shards import Shards
from instructblip_jax.models.towers.vit import VitConfig

TENSOR = "vision_model.embeddings.position_embedding"
_A = -0.75


def _kernel(distance: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel at distances from 0 to 2."""
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = _A * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def _weights(old: int, new: int) -> np.ndarray:
    """float64 [new, old]: how much of each of ``old`` cells of a side goes into each of ``new`` ones."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int) - 1
    weights = np.zeros((new, old))
    for tap in range(4):
        column = np.clip(first + tap, 0, old - 1)  # beyond the border its own cell counts again
        np.add.at(weights, (np.arange(new), column), _kernel(np.abs(centres - (first + tap))))
    return weights


def resized(positions: np.ndarray, grid: int) -> np.ndarray:
    """Position embeddings [1, old * old + 1, D], class position first -> float32 [1, grid * grid + 1, D]."""
    positions = positions.astype(np.float32)
    old = round((positions.shape[1] - 1) ** 0.5)
    weights = _weights(old, grid)
    cells = positions[0, 1:].reshape(old, old, -1)
    cells = np.einsum("yr,xc,rcd->yxd", weights, weights, cells, optimize=True).astype(np.float32)
    return np.concatenate([positions[:, :1], cells.reshape(1, grid**2, -1)], axis=1)


@dataclasses.dataclass(frozen=True)
class _Resized(Shards):
    """Files in which the position embeddings seem to be stored for a grid of ``grid`` patches a side, in float32."""

    grid: int

    def read(self, name: str) -> np.ndarray:
        """One tensor."""
        tensor = super().read(name)
        return resized(tensor, self.grid) if name == TENSOR else tensor


def fitted(shards: Shards, stored: VitConfig, grid: int) -> Shards:
    """``shards`` of a model whose config.json says ``stored``, as they would be with ``grid`` patches a side.

    The resized tensor is float32 whatever it is stored as. Files that are not what config.json says stay as they are,
    for `load.check` to tell.
    """
    shape = (1, stored.grid**2 + 1, stored.hidden_size)
    if grid == stored.grid or shards.shapes.get(TENSOR) != shape:
        return shards
    shapes = {**shards.shapes, TENSOR: (1, grid**2 + 1, shape[2])}
    return _Resized(shards.directory, shards.files, shapes, {**shards.types, TENSOR: "F32"}, grid)
