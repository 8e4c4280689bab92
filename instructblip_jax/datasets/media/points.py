"""Point clouds in records: .npy, float32 [N, 3]."""

import io

import numpy as np

from instructblip_jax.processors.points import centred, drawn, points_of

MOST = 16_384
"""Maximum number of stored points, and number of points sampled from the faces of a mesh: twice PointBERT's."""


def stored(data: bytes, name: str) -> bytes:
    """The points of a file, at most `MOST`, centred and within the unit ball. Raises UnusableMediaError.

    They are centred before conversion to float32, which would be inaccurate far from the origin.
    """
    points = centred(points_of(data, name, MOST))
    return encode(drawn(points, min(MOST, len(points))))


def encode(points: np.ndarray) -> bytes:
    """Points [N, 3] as the bytes of a .npy file of float32."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(points, np.float32), allow_pickle=False)
    return buffer.getvalue()
