"""The statistics of drift and of best-of-n against second opinions: brute force, scipy, scikit-learn, simulation."""

from __future__ import annotations

import math
import random
from itertools import combinations, product
from statistics import fmean

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.linear_model import LogisticRegression

from lorarlhf.evaluate.bestof import best_of_kl, expected_best, weights
from lorarlhf.evaluate.ensemble import HEADS, bootstrap, fit, on_scale, sigmoid
from lorarlhf.evaluate.paired import difference, mean_of, ratio, t_quantile
from lorarlhf.evaluate.questions import QUESTIONS, TEXT
from lorarlhf.evaluate.repetition import distinct, distinct_of_equal_length, repeated_share

# -- best of n --------------------------------------------------------------------------------------------------


def test_best_of_n_is_the_mean_over_all_subsets():
    rng = random.Random(0)
    scores = [rng.gauss(0, 1) for _ in range(9)]
    values = [rng.gauss(0, 1) for _ in range(9)]
    for n in range(1, 10):
        subsets = list(combinations(range(9), n))
        best = [max(subset, key=scores.__getitem__) for subset in subsets]
        assert expected_best(scores, n) == pytest.approx(fmean(scores[i] for i in best))
        assert expected_best(scores, n, values) == pytest.approx(fmean(values[i] for i in best))
        assert math.fsum(weights(9, n)) == pytest.approx(1)
    with pytest.raises(ValueError, match="between 1 and 9"):
        expected_best(scores, 10)


def test_answers_that_score_alike_are_chosen_alike():
    scores, values = [1.0, 2.0, 2.0, 0.0, 2.0], [5.0, 1.0, 4.0, 9.0, 7.0]
    for n in range(1, 6):
        expected = []
        for subset in combinations(range(5), n):
            top = max(scores[i] for i in subset)
            expected.append(fmean(values[i] for i in subset if scores[i] == top))
        assert expected_best(scores, n, values) == pytest.approx(fmean(expected))


def test_best_of_n_has_no_bias():
    """The expectation of the largest of n normal numbers, by quadrature (scipy), against the mean of many estimates."""
    rng = np.random.default_rng(0)
    drawn = rng.normal(size=(4000, 16))
    for n in (2, 4, 16):
        density = lambda x, n=n: n * x * stats.norm.pdf(x) * stats.norm.cdf(x) ** (n - 1)  # noqa: E731
        from scipy.integrate import quad

        truth = quad(density, -9, 9)[0]
        found = fmean(expected_best(row.tolist(), n) for row in drawn)
        assert found == pytest.approx(truth, abs=4 / math.sqrt(4000))
        assert abs(found - truth) < 0.03


def exact_kl(probabilities: list[float], n: int) -> float:
    """KL of best-of-n from what it draws from, by enumeration: outcomes with later numbers score higher."""
    best = [0.0] * len(probabilities)
    for drawn in product(range(len(probabilities)), repeat=n):
        best[max(drawn)] += math.prod(probabilities[i] for i in drawn)
    return math.fsum(b * math.log(b / p) for b, p in zip(best, probabilities, strict=True) if b)


def test_the_kl_of_best_of_n_bounds_what_enumeration_finds_and_is_reached_as_outcomes_grow_fine():
    assert best_of_kl(1) == 0
    for n in (2, 3, 4):
        for probabilities in ([0.5, 0.5], [0.1, 0.2, 0.3, 0.4], [0.9, 0.05, 0.05]):
            assert 0 < exact_kl(probabilities, n) <= best_of_kl(n) + 1e-12
    fine = [1 / 200] * 200
    assert exact_kl(fine, 2) == pytest.approx(best_of_kl(2), rel=0.01)
    shares = np.diff((np.arange(2001) / 2000) ** 16)  # by the distribution function of the largest of 16
    assert float(np.sum(shares * np.log(shares * 2000 + 1e-300))) == pytest.approx(best_of_kl(16), rel=1e-3)


# -- intervals --------------------------------------------------------------------------------------------------


def test_students_quantile_is_scipys():
    for freedom in (1, 2, 3, 5, 9, 31, 400):
        assert t_quantile(0.975, freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.005)


def test_the_interval_of_a_difference_is_the_paired_t_tests():
    rng = np.random.default_rng(1)
    before, after = rng.normal(size=24), rng.normal(0.5, 1.5, size=24)
    found = difference(before.tolist(), after.tolist())
    second = stats.ttest_rel(after, before).confidence_interval()
    assert (found.low, found.high) == pytest.approx((second.low, second.high), rel=1e-3)
    assert found.value == pytest.approx(float(np.mean(after - before)))
    assert mean_of([3.0]).low == -math.inf
    assert math.isnan(mean_of([]).value)


def test_the_interval_of_a_ratio_holds_the_truth_as_often_as_it_says_and_is_like_the_bootstraps():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(1000):
        before = rng.gamma(4.0, 10.0, size=32)
        after = 1.3 * before * rng.gamma(9.0, 1 / 9, size=32)
        found = ratio(before.tolist(), after.tolist())
        hits += found.low <= 1.3 <= found.high
    assert 920 <= hits <= 975
    second = stats.bootstrap(
        (before, after), lambda b, a, axis: a.mean(axis) / b.mean(axis), paired=True, method="percentile", rng=0
    ).confidence_interval
    assert found.value == pytest.approx(after.mean() / before.mean())
    assert found.high - found.low == pytest.approx(second.high - second.low, rel=0.15)
    assert math.isnan(ratio([0.0, 0.0], [1.0, 2.0]).value)


# -- repetition -------------------------------------------------------------------------------------------------


def test_repetition_by_hand():
    # abcd bcda cdab dabc | abcd bcda: 6 runs of four, 4 different ones.
    assert repeated_share(list("abcdabcda")) == pytest.approx(2 / 6)
    assert repeated_share(list("abc")) == 0  # too short for any
    assert repeated_share(list("aaaaaaaa")) == pytest.approx(4 / 5)
    assert distinct([list("aba"), list("ab")]) == pytest.approx(2 / 3)  # ab ba | ab
    assert math.isnan(distinct([list("a")]))
    long = ["x", "y", "x", "y", "x", "y"]
    assert distinct_of_equal_length([long], [long[:3]]) == (1.0, 1.0)  # each cut to three


def test_the_questions_can_be_asked():
    assert len(QUESTIONS) == 40
    assert len({question.text for question in QUESTIONS}) == 40
    for question in QUESTIONS:
        options = [question.right, *question.wrong]
        assert len(set(options)) == 4, question
        # Length is no hint: the right one is never far from the mean of the others.
        others = fmean(map(len, question.wrong))
        assert 0.5 <= len(question.right) / others <= 2, question
    assert len(TEXT) == 20


# -- the ensemble -----------------------------------------------------------------------------------------------


def votes(pairs: int = 120, width: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Differences of states, and a head by which votes are cast as Bradley and Terry would."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(pairs, width)) / math.sqrt(width), 6 * rng.normal(size=width) / math.sqrt(width) * 3


def test_a_head_is_scikit_learns_logistic_regression():
    differences, truth = votes()
    rng = np.random.default_rng(1)
    won = rng.random(len(differences)) < sigmoid(differences @ truth)
    weight = rng.integers(0, 4, size=len(differences)).astype(float)
    for penalty in (0.1, 1.0, 30.0):
        found = fit(differences, won.astype(float), weight, penalty=penalty)
        model = LogisticRegression(C=1 / penalty, fit_intercept=False, tol=1e-10, max_iter=10_000)
        model.fit(differences, won, sample_weight=weight)
        assert found == pytest.approx(model.coef_[0], abs=1e-4)


@pytest.mark.parametrize(("pairs", "width"), [(120, 12), (20, 60)], ids=["more votes", "more states"])
def test_a_head_that_starts_elsewhere_with_ties_is_scipys_minimum(pairs, width):
    differences, _ = votes(pairs, width)
    rng = np.random.default_rng(1)
    targets = rng.choice([0.5, 1.0], size=pairs)
    weight, start = rng.random(pairs), rng.normal(size=width)

    def loss(head):
        z = differences @ head
        return weight @ (np.logaddexp(0, z) - targets * z) + 0.5 * np.sum((head - start) ** 2)

    second = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-8}).x
    assert fit(differences, targets, weight, start) == pytest.approx(second, abs=1e-4)
    assert fit(differences, targets, np.zeros(pairs), start) == pytest.approx(start)


def test_heads_agree_on_what_votes_settle_and_differ_on_what_they_leave_open():
    rng = np.random.default_rng(0)
    differences = np.zeros((300, 8))
    differences[:, :4] = rng.normal(size=(300, 4))  # the votes never differ in the last four
    truth = np.array([2.0, -1.0, 1.0, 0.5, 0, 0, 0, 0])
    swap = rng.random(300) > sigmoid(differences @ truth)
    differences[swap] *= -1
    heads = bootstrap(differences, np.ones(300), np.ones(300), list(range(300)))
    assert heads.shape == (HEADS, 8)
    assert np.corrcoef(heads.mean(0)[:4], truth[:4])[0, 1] > 0.95
    known, unknown = np.eye(8)[:4] * 2, np.eye(8)[4:] * 2
    assert (heads @ unknown.T).std(0).mean() > 2 * (heads @ known.T).std(0).mean()
    # The same seed gives the same heads, and a prompt's votes are drawn together.
    assert bootstrap(differences, np.ones(300), np.ones(300), list(range(300))) == pytest.approx(heads)
    one = bootstrap(differences, np.ones(300), np.ones(300), ["the same prompt"] * 300)
    assert one[:, :4].std(0).mean() < heads[:, :4].std(0).mean()


def test_heads_disagree_as_much_as_their_mistakes_are_large():
    """On new pairs drawn like the votes the heads spread as far as their mean is from the truth."""
    rng = np.random.default_rng(3)
    spreads, errors = [], []
    for seed in range(20):
        truth = rng.normal(size=6) / math.sqrt(6)
        differences = rng.normal(size=(80, 6))
        differences[rng.random(80) > sigmoid(differences @ truth)] *= -1
        heads = bootstrap(differences, np.ones(80), np.ones(80), list(range(80)), heads=20, seed=seed)
        new = rng.normal(size=(200, 6))
        said = heads @ new.T
        spreads.append(np.mean(said.var(0)))
        errors.append(np.mean((said.mean(0) - new @ truth) ** 2))
    assert 0.6 < math.sqrt(fmean(spreads) / fmean(errors)) < 1.7


def test_scores_are_brought_to_the_scale_of_the_reward_model():
    rng = np.random.default_rng(0)
    known = rng.normal(3.0, 2.0, size=50)
    voted = np.stack([known * 0.1 + 7, -known])
    again = on_scale(voted, voted, known)
    assert again[0] == pytest.approx(known)
    assert again.mean(1) == pytest.approx([known.mean()] * 2)
    assert again.std(1) == pytest.approx([known.std()] * 2)
