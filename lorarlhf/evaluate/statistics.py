"""Statistics of shares, ranks and probabilities: numbers in, numbers out, each with the source of its formula."""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from lorarlhf.algo.intervals import wilson_interval

CONFIDENCE_BINS = 5
"""Of the confidences from 0.5 to 1: a tenth each."""
MOST_SIMULATIONS, LEAST_SIMULATIONS, DRAWS = 1000, 100, 300_000
"""Fewer for many cases, so that it takes a fraction of a second."""


@dataclass(frozen=True)
class Share:
    """How often something was so, with a 95 % interval."""

    hits: float
    """May be fractional: an undecided one counts half, a pair of a ranking less than a vote."""
    trials: float
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself; NaN of nothing."""
        return self.hits / self.trials if self.trials else math.nan

    def __bool__(self) -> bool:
        return self.trials > 0


def share_of(
    values: Iterable[float], weights: Iterable[float] | None = None, clusters: Iterable[Hashable] | None = None
) -> Share:
    """Average values of 0 to 1, with Wilson's interval at the effective number of trials.

    Values of one cluster (several votes on one prompt) say less than as many of different ones. The number of trials
    is therefore divided by the design effect before Wilson's formula is applied (E. L. Korn and B. I. Graubard, Survey
    Methodology 24, 1998; N. Dean and M. Pagano, J. Survey Statistics and Methodology 3, 2015). Without clusters, or
    with one value in each, it is Wilson's interval as it stands.
    """
    values = list(values)
    weights = [1.0] * len(values) if weights is None else list(weights)
    places: list[Hashable] = list(range(len(values))) if clusters is None else list(clusters)
    trials = math.fsum(weights)
    hits = math.fsum(w * y for w, y in zip(weights, values, strict=True))
    if trials <= 0:
        return Share(0.0, 0.0, 0.0, 1.0)
    effective = min(trials, effective_trials(values, weights, places))
    return Share(hits, trials, *wilson_interval(hits / trials * effective, effective))


def effective_trials(values: Sequence[float], weights: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """Return how many independent trials tell as much as these: their number by the design effect.

    The design effect (L. Kish, "Survey Sampling", 1965) is the variance of the weighted mean between clusters, by
    linearisation, over that of as many independent values. Where all values are equal nothing can be estimated, and a
    cluster counts as one trial, which is the most cautious guess.
    """
    trials, count = math.fsum(weights), len(set(clusters))
    mean = math.fsum(w * y for w, y in zip(weights, values, strict=True)) / trials
    if count < 2 or mean <= 0 or mean >= 1 or trials <= 1:
        return min(trials, float(count))
    deviations: defaultdict[Hashable, float] = defaultdict(float)
    for value, weight, cluster in zip(values, weights, clusters, strict=True):
        deviations[cluster] += weight * (value - mean)
    between = count / (count - 1) * math.fsum(d * d for d in deviations.values()) / trials**2
    alone = mean * (1 - mean) / (trials - 1)
    return trials / max(1.0, between / alone)


def best_possible(consistency: float) -> tuple[float, float]:
    """Bound how often a perfect model can agree with somebody who says the same again in this share of cases.

    Whoever says the likelier of two things with probability m says the same twice with c = m² + (1 − m)². Over pairs
    with any m from ½ to 1 the mean of m lies between the mean of c (m ≥ m² + (1 − m)²) and (1 + √(2c − 1)) / 2 (Jensen:
    c is convex in m). Below one half there is no such m, and ½ is all that can be hoped for.
    """
    if consistency <= 0.5:
        return 0.5, 0.5
    return consistency, (1 + math.sqrt(2 * consistency - 1)) / 2


def binomial_test(hits: int, trials: int) -> float:
    """Return the two-sided probability of a count at least as uneven by chance, where both sides are as likely."""
    if not trials:
        return 1.0
    tail = sum(math.comb(trials, k) for k in range(min(hits, trials - hits) + 1))
    return min(1.0, 2 * tail / 2**trials)


# -- calibration ------------------------------------------------------------------------------------------------


def preference(gap: float) -> float:
    """Turn a difference of scores into the probability of a preference (Bradley and Terry, Biometrika 39, 1952)."""
    return 1 / (1 + math.exp(-gap)) if gap >= 0 else math.exp(gap) / (1 + math.exp(gap))


@dataclass(frozen=True)
class Bin:
    """Cases in which somebody was about as sure."""

    low: float
    high: float
    confidence: float
    """Mean of what was claimed."""
    right: Share


def calibration(
    confidences: Sequence[float], right: Sequence[float], weights: Sequence[float], clusters: Sequence[Hashable]
) -> list[Bin]:
    """Compare what was claimed, from 0.5 to 1, with what was right, in bins of equal width; empty ones are left out."""
    places = [_bin(confidence) for confidence in confidences]
    found = []
    for place in sorted(set(places)):
        inside = [i for i, other in enumerate(places) if other == place]
        own = [weights[i] for i in inside]
        mean = math.fsum(confidences[i] * weights[i] for i in inside) / math.fsum(own)
        low = 0.5 + place * 0.5 / CONFIDENCE_BINS
        share = share_of([right[i] for i in inside], own, [clusters[i] for i in inside])
        found.append(Bin(low, low + 0.5 / CONFIDENCE_BINS, mean, share))
    return found


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean distance of claim and truth (Guo et al., arXiv 1706.04599)."""
    trials = math.fsum(one.right.trials for one in bins)
    return math.fsum(one.right.trials * abs(one.right.value - one.confidence) for one in bins) / trials


def calibration_error_by_chance(confidences: Sequence[float], weights: Sequence[float], seed: int = 0) -> float:
    """Return the error that a perfectly calibrated model stays below in 95 of 100 such samples.

    The error of few cases is far from 0 even where all claims are true. Outcomes are therefore drawn as claimed, again
    and again (J. Bröcker and L. A. Smith, Weather and Forecasting 22, 2007).
    """
    rng = random.Random(seed)
    places = [_bin(confidence) for confidence in confidences]
    total = math.fsum(weights)
    errors = []
    for _ in range(min(MOST_SIMULATIONS, max(LEAST_SIMULATIONS, DRAWS // len(places)))):
        gaps = [0.0] * CONFIDENCE_BINS
        for place, confidence, weight in zip(places, confidences, weights, strict=True):
            gaps[place] += weight * ((rng.random() < confidence) - confidence)
        errors.append(sum(map(abs, gaps)) / total)
    return quantile(errors, 0.95)


def _bin(confidence: float) -> int:
    # A step of 0.1 from 0.5 on, the upper end taken in, without the rounding of a division.
    edges = [0.5 + i * 0.5 / CONFIDENCE_BINS for i in range(1, CONFIDENCE_BINS)]
    return bisect_right(edges, confidence)


# -- relations and distributions --------------------------------------------------------------------------------


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Return Spearman's rank correlation, Pearson's of ranks that equal values share; NaN where one side is flat."""
    first, second = ranks(xs), ranks(ys)
    middle = (len(first) + 1) / 2
    covariance = math.fsum((a - middle) * (b - middle) for a, b in zip(first, second, strict=True))
    spread = math.fsum((a - middle) ** 2 for a in first) * math.fsum((b - middle) ** 2 for b in second)
    return covariance / math.sqrt(spread) if spread > 0 else math.nan


def ranks(values: Sequence[float]) -> list[float]:
    """Rank values from 1 on; equal ones get the mean of their places."""
    order = sorted(range(len(values)), key=values.__getitem__)
    found = [0.0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end < len(order) and values[order[end]] == values[order[start]]:
            end += 1
        for place in order[start:end]:
            found[place] = (start + 1 + end) / 2
        start = end
    return found


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of the others lies below, interpolated (type 7 of Hyndman and Fan, 1996)."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
