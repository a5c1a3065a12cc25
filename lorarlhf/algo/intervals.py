"""Intervals of shares. Plain numbers, so that what knows no torch can use them as well."""

from __future__ import annotations

import math
from collections.abc import Sequence


def wilson_interval(successes: float, trials: float, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a share (95 % by default); (0, 1) when there are no trials.

    Source: E. B. Wilson, "Probable inference", JASA 22 (1927). `successes` may be fractional (ties count half).
    """
    if trials <= 0:
        return 0.0, 1.0
    share = successes / trials
    denominator = 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / denominator
    half = z / denominator * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


FEWEST, ERRORS = 8, 2.0
"""Pairs below which a difference proves nothing, and the standard errors it must be away from 0."""


def clearly_less(some: Sequence[float], others: Sequence[float], errors: float = ERRORS) -> bool:
    """Tell whether `some` are less than `others` on average by more than chance explains; both in the same order."""
    differences = [a - b for a, b in zip(some, others, strict=True)]
    count = len(differences)
    if count < FEWEST:
        return False
    mean = sum(differences) / count
    variance = sum((d - mean) ** 2 for d in differences) / (count - 1)
    return mean < 0 and mean < -errors * math.sqrt(variance / count)
