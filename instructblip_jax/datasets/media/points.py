"""Point clouds as records hold them: .npy, float32 [N, 3]."""

import io

import numpy as np

from instructblip_jax.processors.points import centred, drawn, points_of

MOST = 16_384
"""Points of a cloud that are kept, and are drawn from the faces of a mesh: twice what PointBERT reads."""


def stored(data: bytes, name: str) -> bytes:
    """The points of a file, `MOST` of them at most, around their mean within the unit ball. Raises UnusableMediaError.

    They are centred before they become float32, which would spoil coordinates far from the origin.
    """
    points = centred(points_of(data, name, MOST))
    return encode(drawn(points, min(MOST, len(points))))


def encode(points: np.ndarray) -> bytes:
    """Points [N, 3] as the bytes of a .npy file of float32."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(points, np.float32), allow_pickle=False)
    return buffer.getvalue()
