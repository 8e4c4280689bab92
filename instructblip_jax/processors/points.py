"""Point clouds of any size -> ``count`` points, centred and within the unit ball, the input of ULIP-2's PointBERT
(arXiv 2305.08275; X-InstructBLIP 2311.18799). `cloud_files` reads their files.

The original subsamples larger clouds by farthest-point sampling from a random start and shuffles the others. Here draws
use a fixed seed, so that a cloud gives the same points every time, and points keep their order.
"""

import dataclasses
from typing import Any

import numpy as np

from instructblip_jax.processors.cloud_files import Cloud, read
from instructblip_jax.processors.content import UnusableMediaError, name_of, whole

NOUN = "point cloud"
SEED = 0


@dataclasses.dataclass(frozen=True)
class PointProcessor:
    """``count``: number of points P per cloud."""

    count: int = 8192

    def values(self, content: Any, name: str | None = None) -> np.ndarray:
        """One cloud, a path, a file's bytes or numbers [N, 3 or more] -> float32 [P, 3].

        Its mean is subtracted, and it is scaled so that the largest norm is 1. Larger clouds are randomly subsampled to
        P points; in smaller ones some points are repeated. Raises UnusableMediaError.
        """
        return drawn(centred(points_of(content, name_of(content, name, NOUN), self.count)), self.count)


def points_of(content: Any, name: str, surface: int) -> np.ndarray:
    """The points of a cloud as in its file, or ``surface`` points sampled from a mesh's faces: float64 [N >= 1, 3].

    Points with coordinates that are NaN, infinite or beyond float32 are dropped. Raises UnusableMediaError.
    """
    if isinstance(content, np.ndarray):
        if content.ndim != 2 or content.shape[1] < 3 or content.dtype.kind not in "iuf":
            detail = f"{name}: {content.dtype} {content.shape}; give numbers [points, 3]"
            raise UnusableMediaError("not a point cloud", detail)
        cloud = Cloud(content[:, :3].astype(np.float64))
    else:
        cloud = read(whole(content, name, NOUN), name)
    points = cloud.points if cloud.faces is None else _on_surface(cloud.points, cloud.faces, surface)
    points = points[(np.abs(points) <= np.finfo(np.float32).max).all(1)]
    if not len(points):
        raise UnusableMediaError("no points", f"{name}: none whose coordinates are numbers; leave it out")
    return points


def centred(points: np.ndarray) -> np.ndarray:
    """Points [N, 3] minus their mean, scaled to a largest norm of 1, or 0 if all points coincide; float64."""
    largest = np.abs(points).max()
    points = points / (largest or 1.0)  # so that no sum or square overflows
    points = points - points.mean(0)
    radius = np.sqrt((points**2).sum(1).max())
    return points / radius if radius > np.finfo(np.float64).eps else np.zeros_like(points)


def drawn(points: np.ndarray, count: int) -> np.ndarray:
    """``count`` of the points [N, 3], in their order, float32; if there are fewer, random points are repeated.

    Farthest-point sampling would take seconds for each cloud without an accelerator.
    """
    rng = np.random.default_rng(SEED)
    if len(points) > count:
        points = points[np.sort(rng.choice(len(points), count, replace=False, shuffle=False))]
    elif len(points) < count:
        points = np.concatenate([points, points[rng.integers(len(points), size=count - len(points))]])
    return points.astype(np.float32)


def _on_surface(points: np.ndarray, faces: np.ndarray, count: int) -> np.ndarray:
    """``count`` points [count, 3] sampled uniformly over the area of triangles [F, 3]; the corners if the area is 0."""
    corners = points[faces]  # [F, 3, 3]
    with np.errstate(all="ignore"):
        areas = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    ends = np.cumsum(np.where(np.isfinite(areas), areas, 0.0))
    if not len(ends) or not 0 < ends[-1] < np.inf:
        return points
    rng = np.random.default_rng(SEED)
    face = np.minimum(np.searchsorted(ends, rng.random(count) * ends[-1], side="right"), len(ends) - 1)
    along, across = rng.random((2, count, 1))
    over = along + across > 1
    along, across = np.where(over, 1 - along, along), np.where(over, 1 - across, across)
    first, second, third = corners[face].transpose(1, 0, 2)
    return first + along * (second - first) + across * (third - first)
