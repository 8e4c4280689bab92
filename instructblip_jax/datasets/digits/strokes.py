"""The scans of handwritten digits in two more modalities: a video in which the ink appears, and points in space."""

import numpy as np
from PIL import Image

FRAMES = 5
"""Number of frames of a video; the last one shows all of the ink."""
POINTS = 256
"""Number of points per cloud."""


def order(scan: np.ndarray) -> np.ndarray:
    """The time at which a pen reaches each pixel of a scan uint8 [H, W]: float [H, W], 0 to 1; 1 where there is no ink.

    The pen starts at the topmost ink (the leftmost of it) and takes the shortest path through the ink; unconnected ink
    comes last.
    """
    ink = scan > 48
    reached = np.full(scan.shape, np.inf)
    while (left := ink & ~np.isfinite(reached)).any():
        begun = reached[np.isfinite(reached)].max(initial=-1) + 1
        reached[tuple(np.argwhere(left)[0])] = begun
        while True:  # each step goes one pixel further, also diagonally
            around = np.pad(reached, 1, constant_values=np.inf)
            rows, columns = scan.shape
            near = [around[r : r + rows, c : c + columns] for r in range(3) for c in range(3)]
            further = np.where(ink, np.minimum(reached, np.minimum.reduce(near) + 1), np.inf)
            if np.array_equal(further, reached):
                break
            reached = further
    last = reached[ink].max(initial=0)
    return np.where(ink, reached / max(last, 1), 1)


def film(scan: np.ndarray, count: int = FRAMES) -> list[np.ndarray]:
    """A scan uint8 [H, W] as ``count`` scans of more and more of its ink; the last one is the scan itself."""
    when = order(scan)
    return [np.where(when <= (n + 1) / count, scan, 0).astype(np.uint8) for n in range(count)]


def cloud(scan: np.ndarray, rng: np.random.Generator, count: int = POINTS) -> np.ndarray:
    """A scan uint8 [H, W] as points float32 [count, 3]: x to the right, y upwards, z the thickness of the ink, slightly
    rotated about each axis. Two pixels of height are a unit."""
    side = 32
    fine = np.asarray(Image.fromarray(scan).resize((side, side), Image.Resampling.BICUBIC), np.float64)
    fine = np.where(fine < 64, 0, fine)  # bicubic shading is not ink
    chosen = rng.choice(side * side, count, p=(fine / fine.sum()).reshape(-1))
    row, column = np.divmod(chosen, side)
    x, y = (column + rng.random(count)) / side - 0.5, 0.5 - (row + rng.random(count)) / side
    z = (rng.random(count) - 0.5) * 0.3 * fine.reshape(-1)[chosen] / 255
    points = np.stack([x, y, z], 1) * scan.shape[0] / 2
    for axis, most in ((0, 0.3), (1, 0.3), (2, 0.2)):
        angle = rng.uniform(-most, most)
        one, other = (axis + 1) % 3, (axis + 2) % 3
        turn = np.eye(3)
        turn[[one, other], [one, other]] = np.cos(angle)
        turn[one, other], turn[other, one] = -np.sin(angle), np.sin(angle)
        points = points @ turn.T
    return points.astype(np.float32)
