"""Position embeddings for another image size than the checkpoint's, as a `Transform` of their rule.

The class position is unchanged; the grid of the others is resized bicubically, as in the original (arXiv 2301.12597)
and transformers' `interpolate_pos_encoding`: torch's kernel, whose constant is -0.75, sampled at the centres of the
new cells (align_corners false), without antialiasing and with the border repeated. jax.image has another constant.
"""

import dataclasses

import numpy as np

from instructblip_jax.convert.rule import IDENTITY, LEADING, Transform

_A = -0.75


def _kernel(distance: np.ndarray) -> np.ndarray:
    """The cubic convolution kernel at distances from 0 to 2."""
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = _A * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, near, far)


def _weights(old: int, new: int) -> np.ndarray:
    """float64 [new, old]: the weight of each of ``old`` cells along a side in each of ``new`` ones."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(centres).astype(int) - 1
    weights = np.zeros((new, old))
    for tap in range(4):
        column = np.clip(first + tap, 0, old - 1)  # the border is repeated
        np.add.at(weights, (np.arange(new), column), _kernel(np.abs(centres - (first + tap))))
    return weights


def resize(positions: np.ndarray, grid: int) -> np.ndarray:
    """Position embeddings [old * old + 1, D], class position first -> float32 [grid * grid + 1, D]."""
    positions = positions.astype(np.float32)
    old = round((positions.shape[0] - 1) ** 0.5)
    weights = _weights(old, grid)
    cells = positions[1:].reshape(old, old, -1)
    cells = np.einsum("yr,xc,rcd->yxd", weights, weights, cells, optimize=True).astype(np.float32)
    return np.concatenate([positions[:1], cells.reshape(grid**2, -1)])


def resized(stored: int, grid: int, *, leading: bool = True) -> Transform:
    """Theirs is stored for ``stored`` patches per side, [1, stored * stored + 1, D]; ours is for ``grid``.

    ``leading``: False if theirs is [stored * stored + 1, D]. Loading resizes and gives float32; saving keeps our size.
    Raises ValueError on loading a tensor of another shape.
    """
    ones = (1,) if leading else ()

    def load(tensor: np.ndarray) -> np.ndarray:
        if tensor.shape[:-1] != (*ones, stored**2 + 1):
            want = ", ".join(map(str, (*ones, stored**2 + 1, "width")))
            raise ValueError(f"is {list(tensor.shape)}; config.json's image size asks for [{want}]")
        return resize(tensor.reshape(tensor.shape[-2:]), grid)

    base = LEADING if leading else IDENTITY
    return dataclasses.replace(base, stored=lambda shape: (*ones, stored**2 + 1, shape[1]), load=load)
