"""The 1,797 real scans of handwritten digits that scikit-learn bundles (UCI, E. Alpaydin and C. Kaynak, 1998)."""

from functools import cache

import numpy as np

SHARES = {"train": 0.70, "validation": 0.10, "test": 0.20}
"""The scans are split before scenes are composed, so that no handwriting occurs in two splits."""


@cache
def load(split: str) -> tuple[np.ndarray, ...]:
    """The scans of a split by digit: ten arrays uint8 [n, 8, 8] of ink, 0 to 255.

    Raises ModuleNotFoundError if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ModuleNotFoundError("the digits world needs scikit-learn: pip install -e '.[demo]'") from error
    data = load_digits()
    ink = np.rint(data.images * (255 / 16)).astype(np.uint8)
    bounds = dict(zip(SHARES, np.cumsum([0.0, *SHARES.values()]), strict=False))
    by_digit = []
    for digit in range(10):
        own = ink[data.target == digit]
        own = own[np.random.default_rng(digit).permutation(len(own))]
        start = round(bounds[split] * len(own))
        stop = round((bounds[split] + SHARES[split]) * len(own))
        by_digit.append(own[start:stop])
    return tuple(by_digit)
