"""Intervals of shares. Plain numbers, so that what knows no torch can use them as well."""

from __future__ import annotations

import math


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
