"""The probability of each set in a mixture (arXiv 2305.06500, section 2.4)."""

import math
from collections.abc import Mapping


def probabilities(
    sizes: Mapping[str, int],
    *,
    exponent: float = 0.5,
    weights: Mapping[str, float] | None = None,
    caps: Mapping[str, int] | None = None,
) -> dict[str, float]:
    """Set -> probability, in proportion to min(size, caps[set]) ** exponent * weights[set] (1 where none is given).

    Exponent 0.5 is the paper's balanced sampling. Raises ValueError for an empty mixture, a weight or cap of an unknown
    set, a set without records, a cap below 1, or weights that are negative or all zero.
    """
    weights, caps = weights or {}, caps or {}
    if not sizes:
        raise ValueError("mixture.sets is empty: name at least one set to train on")
    for field, given in (("weights", weights), ("caps", caps)):
        unknown = sorted(set(given) - set(sizes))
        if unknown:
            raise ValueError(f"mixture.{field} names {', '.join(unknown)}, not among mixture.sets ({', '.join(sizes)})")
    low = sorted(name for name, cap in caps.items() if cap < 1)
    if low:
        raise ValueError(f"mixture.caps: that of {', '.join(low)} is below 1; a weight of 0 leaves a set out")
    empty = sorted(name for name, size in sizes.items() if size < 1)
    if empty:
        raise ValueError(f"mixture.sets: {', '.join(empty)} has no training record")
    shares = {
        name: min(size, caps.get(name, size)) ** exponent * weights.get(name, 1.0) for name, size in sizes.items()
    }
    total = sum(shares.values())
    if min(shares.values()) < 0 or not 0 < total < math.inf:
        raise ValueError(
            f"mixture.weights {dict(weights)} with mixture.exponent {exponent}: finite numbers are needed, "
            "no weight may be negative, and one must be positive"
        )
    return {name: share / total for name, share in shares.items() if share > 0}
