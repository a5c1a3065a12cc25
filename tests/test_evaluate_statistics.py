"""Statistics of the reward model's health against scipy, scikit-learn, numbers by hand, and simulated truth."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.calibration import calibration_curve

from lorarlhf.algo.intervals import wilson_interval
from lorarlhf.evaluate.statistics import (
    best_possible,
    binomial_test,
    calibration,
    calibration_error,
    calibration_error_by_chance,
    correlation,
    preference,
    quantile,
    ranks,
    share_of,
)

numbers = st.floats(-1e6, 1e6)


def coverage(truth: float, draw, times: int = 4000) -> float:
    """How often a 95 % interval holds the truth."""
    held = [one.low <= truth <= one.high for one in (draw() for _ in range(times))]
    return sum(held) / times


@pytest.mark.parametrize(("truth", "votes"), [(0.6, 40), (0.75, 60), (0.85, 100), (0.92, 200)])
def test_the_interval_of_a_share_holds_the_truth_in_95_of_100_samples(truth, votes):
    rng = random.Random(0)
    assert 0.93 <= coverage(truth, lambda: share_of([float(rng.random() < truth) for _ in range(votes)])) <= 0.97


def clustered(rng: random.Random, prompts: int) -> tuple[list[float], list[int]]:
    """One to six votes a prompt, and prompts on which the model is right much more often than on others: 0.75."""
    values, clusters = [], []
    for prompt in range(prompts):
        right = rng.choice([0.55, 0.95])
        for _ in range(rng.randint(1, 6)):
            values.append(float(rng.random() < right))
            clusters.append(prompt)
    return values, clusters


def test_it_does_so_too_where_several_votes_share_a_prompt_and_wilsons_alone_does_not():
    rng = random.Random(1)
    assert 0.93 <= coverage(0.75, lambda: share_of(*weighted(clustered(rng, 60))), 3000) <= 0.97
    rng = random.Random(1)
    assert coverage(0.75, lambda: share_of(clustered(rng, 60)[0]), 3000) < 0.93


def weighted(drawn: tuple[list[float], list[int]]) -> tuple[list[float], None, list[int]]:
    return drawn[0], None, drawn[1]


def test_a_share_of_independent_votes_is_wilsons():
    values = [1.0] * 31 + [0.0] * 9
    for found in (share_of(values), share_of(values, clusters=range(40)), share_of(values, [1.0] * 40, range(40))):
        assert (found.low, found.high) == pytest.approx(wilson_interval(31, 40))
        assert (found.value, found.trials) == (31 / 40, 40)


def test_the_effective_number_of_votes_by_hand():
    # Four prompts, two equal votes each: as good as four votes. Mean 1/2; deviations per prompt ±1, squares 4, so the
    # variance between is 4/3 · 4/64 = 1/12 against 1/4 / 7 = 1/28 alone: a design effect of 7/3, 24/7 votes.
    found = share_of([1, 1, 1, 1, 0, 0, 0, 0], clusters=[0, 0, 1, 1, 2, 2, 3, 3])
    assert (found.low, found.high) == pytest.approx(wilson_interval(12 / 7, 24 / 7))
    # Nothing to estimate a spread from: each prompt is one vote.
    assert share_of([1] * 8, clusters=[0, 0, 1, 1, 2, 2, 3, 3]).low == pytest.approx(wilson_interval(4, 4)[0])
    # A ranking of three weighs as one vote, whatever its three pairs say.
    assert share_of([1, 1, 0], [1 / 3] * 3, ["p"] * 3).trials == pytest.approx(1)
    assert (share_of([]).low, share_of([]).high, bool(share_of([]))) == (0.0, 1.0, False)
    assert math.isnan(share_of([]).value)


@pytest.mark.parametrize(("alpha", "beta"), [(50, 2), (6, 2), (2, 1), (1, 1)])
def test_a_perfect_model_lies_between_its_bounds(alpha, beta):
    """The truth by simulation: each pair has its own probability m of the likelier answer."""
    rng = np.random.default_rng(0)
    p = rng.beta(alpha, beta, 200_000)
    likelier = np.maximum(p, 1 - p)
    low, high = best_possible(float(np.mean(p**2 + (1 - p) ** 2)))
    assert low - 1e-9 <= likelier.mean() <= high + 1e-9


def test_a_perfect_model_by_hand():
    assert best_possible(0.82) == pytest.approx((0.82, 0.9))  # 0.9² + 0.1² = 0.82
    assert best_possible(1.0) == (1.0, 1.0)
    assert best_possible(0.3) == (0.5, 0.5)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_binomial_test_is_scipys(hits, others):
    expected = stats.binomtest(hits, hits + others).pvalue if hits + others else 1.0
    assert binomial_test(hits, hits + others) == pytest.approx(expected)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=40))
def test_ranks_and_their_correlation_are_scipys(pairs):
    xs, ys = zip(*pairs, strict=True)
    assert ranks(xs) == stats.rankdata(xs).tolist()
    found = correlation(xs, ys)
    if len(set(xs)) == 1 or len(set(ys)) == 1:
        assert math.isnan(found)
    else:
        assert found == pytest.approx(stats.spearmanr(xs, ys).statistic)


@given(st.lists(numbers, min_size=1, max_size=30), st.floats(0, 1))
def test_quantiles_are_numpys(values, share):
    assert quantile(values, share) == pytest.approx(float(np.quantile(values, share)), rel=1e-9, abs=1e-6)


@given(st.floats(-800, 800))
def test_the_probability_of_a_preference_is_scipys_logistic(gap):
    assert preference(gap) == pytest.approx(float(stats.logistic.cdf(gap)))


# -- calibration ------------------------------------------------------------------------------------------------


def sample(seed: int, votes: int, sharpness: float = 1.0) -> tuple[list[float], list[float]]:
    """Claims, and outcomes that are as likely as claimed where `sharpness` is 1."""
    rng = np.random.default_rng(seed)
    gaps = np.abs(rng.normal(0, 2, votes))
    sure = [preference(gap) for gap in gaps]
    return sure, [float(rng.random() < preference(gap * sharpness)) for gap in gaps]


def test_the_calibration_curve_is_scikit_learns():
    sure, right = sample(0, 500)
    bins = calibration(sure, right, [1.0] * 500, range(500))
    # Ten bins of scikit-learn's from 0 to 1 are five from a half on.
    share, claimed = calibration_curve(right, sure, n_bins=10)
    assert [one.right.value for one in bins] == pytest.approx(share)
    assert [one.confidence for one in bins] == pytest.approx(claimed)
    sizes = np.histogram(sure, bins=np.linspace(0.5, 1, 6))[0]
    assert [one.right.trials for one in bins] == sizes.tolist()
    assert calibration_error(bins) == pytest.approx(np.average(np.abs(share - claimed), weights=sizes))


def test_calibration_by_hand():
    # 0.55 twice, one right; 0.9 and 1.0 in the last bin, both right, claimed 0.95.
    bins = calibration([0.55, 0.55, 0.9, 1.0], [1, 0, 1, 1], [1, 1, 1, 1], range(4))
    assert [(one.low, one.confidence, one.right.value) for one in bins] == [
        (0.5, pytest.approx(0.55), 0.5),
        (0.9, pytest.approx(0.95), 1.0),
    ]
    assert calibration_error(bins) == pytest.approx((2 * 0.05 + 2 * 0.05) / 4)


def test_a_calibrated_model_exceeds_its_bound_in_5_of_100_samples_and_an_overconfident_one_always():
    def exceeds(seed: int, sharpness: float) -> bool:
        sure, right = sample(seed, 60, sharpness)
        ones = [1.0] * 60
        bound = calibration_error_by_chance(sure, ones, seed)
        return calibration_error(calibration(sure, right, ones, range(60))) > bound

    assert 0.02 <= sum(exceeds(seed, 1.0) for seed in range(150)) / 150 <= 0.1
    assert all(exceeds(seed, 0.2) for seed in range(10))
