"""Win rates that survive peeking and ratings, against scipy, scikit-learn, cases by hand, and simulated truth."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats
from sklearn.linear_model import LogisticRegression

from lorarlhf.evaluate.bradley_terry import GHOST, POINTS, Game, ratings
from lorarlhf.evaluate.duel_words import stop_rule, verdict
from lorarlhf.evaluate.duels import result_of
from lorarlhf.evaluate.sequential import PRIOR, always_valid_interval, capital, more_votes, settled
from lorarlhf.evaluate.statistics import share_of
from lorarlhf.store import DuelVote
from lorarlhf.types import Outcome, user

NAMES = {"x": "ppo-1", "y": "sft-1"}


def votes(outcomes: str, prompts: list[int] | None = None, judge: str = "") -> list[DuelVote]:
    """Votes on x against y, a letter each: x, y, = tie, 0 both bad, s skip; every other one with sides exchanged."""
    found = []
    for i, letter in enumerate(outcomes):
        outcome = {"x": Outcome.A, "y": Outcome.B, "=": Outcome.TIE, "0": Outcome.BOTH_BAD, "s": Outcome.SKIP}[letter]
        first, second = ("x", "y") if i % 2 else ("y", "x")
        said = outcome if i % 2 else outcome.swap()
        prompt = user(f"question {prompts[i] if prompts else i}?")
        found.append(DuelVote(i, "", 1, judge, "", prompt, first, second, said, None))
    return found


# -- an interval that may be looked at all the time -------------------------------------------------------------


def draw(rng: random.Random, mean: float, ties: float) -> float:
    """A vote of that mean, a tie with some probability; so that ties do not move the mean they take from both sides."""
    win = mean - ties / 2
    number = rng.random()
    return 1.0 if number < win else 0.5 if number < win + ties else 0.0


@pytest.mark.parametrize(("wins", "count", "mean"), [(7.0, 10.0, 0.5), (30.5, 41.0, 0.6), (0.0, 5.0, 0.3)])
def test_the_capital_is_the_mixture_of_likelihood_ratios(wins, count, mean):
    def ratio(p: float) -> float:
        bet = (p / mean) ** wins * ((1 - p) / (1 - mean)) ** (count - wins)
        return float(bet * stats.beta.pdf(p, PRIOR, PRIOR))

    assert capital(wins, count, mean) == pytest.approx(math.log(integrate.quad(ratio, 0, 1)[0]), abs=1e-6)


def test_the_interval_ends_where_the_capital_reaches_twenty():
    low, high = always_valid_interval(30.5, 41)
    for end in (low, high):
        assert math.exp(capital(30.5, 41, end)) == pytest.approx(20, rel=1e-6)
    assert low < 30.5 / 41 < high
    assert always_valid_interval(0, 0) == (0, 1)
    assert always_valid_interval(12, 12)[1] == 1
    assert always_valid_interval(0, 12)[0] == 0


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 50))
def test_it_is_the_mirrored_one_for_the_mirrored_votes(wins, losses, ties):
    count, hits = wins + losses + ties, wins + ties / 2
    low, high = always_valid_interval(hits, count)
    assert always_valid_interval(count - hits, count) == pytest.approx((1 - high, 1 - low), abs=1e-6)
    assert 0 <= low <= (hits / count if count else 0.5) <= high <= 1


def ever_wrong(mean: float, ties: float, interval, *, series: int = 500, most: int = 150) -> float:
    """How often an interval looked at after every vote misses the truth at least once."""
    rng, wrong = random.Random(1), 0
    for _ in range(series):
        wins = 0.0
        for count in range(1, most + 1):
            wins += draw(rng, mean, ties)
            low, high = interval(wins, count)
            if not low <= mean <= high:
                wrong += 1
                break
    return wrong / series


@pytest.mark.parametrize(("mean", "ties"), [(0.5, 0.0), (0.5, 0.3), (0.65, 0.1), (0.8, 0.0), (0.93, 0.05)])
def test_looking_after_every_vote_it_misses_the_truth_in_at_most_5_of_100_series(mean, ties):
    ceiling = -math.log(0.05)

    def wrong(wins: float, count: float) -> tuple[float, float]:
        # The same question as whether the interval holds the mean, without finding its ends.
        return (0.0, 1.0) if capital(wins, count, mean) < ceiling else (2.0, 2.0)

    assert ever_wrong(mean, ties, wrong, series=2000, most=300) <= 0.05


def test_an_interval_for_one_look_does_not_survive_that():
    def wilson(wins: float, count: int) -> tuple[float, float]:
        one = share_of([1.0] * int(wins) + [0.0] * (count - int(wins)))
        return one.low, one.high

    assert ever_wrong(0.5, 0.0, wilson) > 0.2


def test_looked_at_once_the_other_interval_of_a_result_holds_the_truth_in_95_of_100():
    rng, held = random.Random(2), 0
    for _ in range(1500):
        # Two to four votes a prompt, and prompts on which x is much the better one.
        letters, prompts = "", []
        for prompt in range(40):
            chance = rng.choice([0.45, 0.85])
            for _ in range(rng.randint(2, 4)):
                letters += "x" if rng.random() < chance else "y"
                prompts.append(prompt)
        share = result_of(votes(letters, prompts), "x", "y").share
        held += share.low <= 0.65 <= share.high
    assert 0.93 <= held / 1500 <= 0.97


def test_votes_on_prompts_that_were_asked_before_do_not_make_it_surer():
    """The stop rule under peeking, with few prompts asked again and again, each with an opinion of its own."""
    rng, wrong, wrong_if_all_counted, series = random.Random(3), 0, 0, 600
    for _ in range(series):
        chances = [rng.choice([0.1, 0.9]) for _ in range(12)]
        letters, fooled, all_fooled = "", False, False
        for _round in range(8):
            letters += "".join("x" if rng.random() < chance else "y" for chance in chances)
        said = votes(letters, [i % 12 for i in range(len(letters))])
        for count in range(1, len(said) + 1, 3):
            wins = letters[:count].count("x")
            all_fooled |= settled(wins, count) in ("first", "second")
            fooled |= settled(letters[: min(12, count)].count("x"), min(12, count)) in ("first", "second")
        result = result_of(said, "x", "y")
        assert result.prompts == 12
        assert result.always == always_valid_interval(letters[:12].count("x"), 12)
        wrong, wrong_if_all_counted = wrong + fooled, wrong_if_all_counted + all_fooled
    assert wrong / series <= 0.05 < wrong_if_all_counted / series


# -- the stop rule ----------------------------------------------------------------------------------------------


def test_as_many_more_votes_as_it_says_settle_it():
    for wins, count in ((13, 20), (3, 10), (19.5, 30)):
        more = more_votes(wins, count)
        share = wins / count
        assert more
        assert not settled(wins, count)
        assert not settled(wins + (more - 1) * share, count + more - 1)
        assert settled(wins + more * share, count + more) == ("first" if share > 0.5 else "second")
    assert more_votes(0, 0) is None
    assert more_votes(45, 50) == 0
    assert more_votes(52.5, 100) is None or more_votes(52.5, 100) > 100


def test_what_lies_within_a_tenth_of_one_half_is_as_good_as_equal():
    assert settled(150, 300) == "equal"
    low, high = always_valid_interval(150, 300)
    assert 0.4 < low < high < 0.6
    assert settled(20, 40) == ""


def test_it_says_so_in_words():
    early = result_of(votes("xxyx=xxyxx"), "x", "y")
    assert verdict(early, NAMES).startswith("Not settled yet: ppo-1 wins 75% of 10 votes (")
    assert stop_rule(early, NAMES) == f"About {early.more} more votes would settle it, if they fall as they did so far"
    assert f"only {early.more - 1} prompts nobody voted on are left" in stop_rule(early, NAMES, early.more - 1)
    assert "every prompt was voted on" in stop_rule(early, NAMES, 0)
    late = result_of(votes("y" * 30 + "x" * 5), "x", "y")
    assert verdict(late, NAMES).startswith("sft-1 is preferred to ppo-1: it wins 86% of 35 votes (")
    assert stop_rule(late, NAMES) == "Decided: sft-1 is better. You can stop"
    assert "as good as equal" in verdict(result_of(votes("xy" * 150), "x", "y"), NAMES)
    assert verdict(result_of([], "x", "y"), NAMES) == "No votes yet on ppo-1 against sft-1"
    assert stop_rule(result_of([], "x", "y"), NAMES) == "The first votes will tell how many it takes"


def test_ties_count_half_skips_nothing_and_sides_do_not_matter():
    result = result_of(votes("xx=0sy"), "x", "y", taken_back=[("y", "x"), ("x", "z")])
    assert (result.share.hits, result.votes, result.ties, result.skipped) == (3.0, 5, 2, 1)
    assert (result.taken_back, result.prompts) == (1, 5)
    other = result_of(votes("xx=0sy"), "y", "x")
    assert other.share.value == pytest.approx(1 - result.share.value)
    assert result.swapped().share.hits == other.share.hits
    assert result.swapped().always == pytest.approx(other.always, abs=1e-9)


# -- ratings ----------------------------------------------------------------------------------------------------


def play(rng: random.Random, theta: dict[str, float], count: int, ties: float = 0.0, per_prompt: int = 1) -> list[Game]:
    games: list[Game] = []
    while len(games) < count:
        prompt = rng.random()
        # What a prompt is about suits some of them better than others.
        suits = {name: rng.gauss(0, 0.7) if per_prompt > 1 else 0.0 for name in theta}
        for _ in range(rng.randint(1, per_prompt)):
            one, other = rng.sample(list(theta), 2)
            gap = theta[one] + suits[one] - theta[other] - suits[other]
            value = 0.5 if rng.random() < ties else float(rng.random() < 1 / (1 + math.exp(-gap)))
            games.append(Game(one, other, value, prompt))
    return games


def test_of_two_it_is_the_logarithm_of_the_odds():
    # 30 wins, 10 losses and the ghost tie: log(30.5 / 10.5), and the variance 1 / (41 p (1 - p)).
    games = [Game("a", "base", float(i < 30), i) for i in range(40)]
    found = ratings(games, "base")
    p = 30.5 / 41
    assert found["a"].points == pytest.approx(POINTS * math.log(30.5 / 10.5))
    half = 1.959964 * math.sqrt(1 / (41 * p * (1 - p)))
    assert found["a"].high - found["a"].points == pytest.approx(POINTS * half, rel=0.02)
    assert (found["base"].points, found["base"].low, found["base"].high) == (0, 0, 0)
    assert 100 * math.log(10) / 400 == pytest.approx(math.log(0.64 / 0.36), abs=0.01)  # what the page says of points


def test_the_strengths_are_those_of_a_logistic_regression():
    theta = {"base": 0.0, "a": 0.4, "b": 1.1, "c": -0.6}
    games = play(random.Random(0), theta, 200, ties=0.2)
    rows, said, weights = [], [], []
    names = ["a", "b", "c"]

    def add(one: str, other: str, value: float, weight: float) -> None:
        for outcome, share in ((1, value), (0, 1 - value)):
            if share:
                rows.append([(name == one) - (name == other) for name in names])
                said.append(outcome)
                weights.append(weight * share)

    for game in games:
        add(game.first, game.second, game.value, 1.0)
    for one, other in {tuple(sorted((g.first, g.second))) for g in games}:
        add(one, other, 0.5, GHOST)
    model = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    model.fit(np.array(rows), said, sample_weight=weights)
    found = ratings(games, "base")
    assert [found[name].points / POINTS for name in names] == pytest.approx(model.coef_[0].tolist(), abs=1e-4)


def covered(theta: dict[str, float], truth: dict[str, float], count: int, **play_as: float) -> dict[str, float]:
    rng, times = random.Random(5), 500
    held = dict.fromkeys(theta, 0)
    for _ in range(times):
        found = ratings(play(rng, theta, count, **play_as), "base")
        for name in theta:
            held[name] += found[name].low <= truth[name] <= found[name].high
    return {name: count / times for name, count in held.items() if name != "base"}


def test_its_intervals_hold_the_truth_in_95_of_100_samples():
    theta = {"base": 0.0, "a": 0.5, "b": 1.0, "c": -0.4}
    found = covered(theta, {name: POINTS * value for name, value in theta.items()}, 120)
    assert all(0.93 <= share <= 0.97 for share in found.values()), found
    assert sum(found.values()) / 3 == pytest.approx(0.95, abs=0.015)


def test_they_do_so_too_where_votes_share_prompts():
    theta = {"base": 0.0, "a": 0.5, "b": 1.0}
    # Prompts that suit some make everybody look more alike: what is estimated is what very many votes would show.
    many = ratings(play(random.Random(9), theta, 60_000, per_prompt=6), "base")
    truth = {name: one.points for name, one in many.items()}
    found = covered(theta, truth, 200, per_prompt=6)
    assert all(0.93 <= share <= 0.98 for share in found.values()), found


def test_who_never_lost_is_strong_and_not_infinitely_so():
    found = ratings([Game("a", "base", 1.0, i) for i in range(20)], "base")
    assert 200 < found["a"].points < 1000
    assert found["a"].high < 3000


def test_who_is_linked_by_no_vote_is_left_out():
    games = [Game("a", "base", 1.0, 1), Game("b", "a", 0.0, 2), Game("c", "d", 1.0, 3)]
    assert set(ratings(games, "base")) == {"base", "a", "b"}
    assert ratings([], "base") == {}


def test_a_stronger_chain_stands_in_order():
    order = ["base", "a", "b", "c", "d"]
    games = [Game(high, low, float(i % 4 != 0), (low, i)) for low, high in pairwise(order) for i in range(40)]
    found = ratings(games, "base")
    points = [found[name].points for name in order]
    assert points == sorted(points)
    # Along a chain each step is the log odds of its own games, and doubt adds up.
    step = POINTS * math.log(30.5 / 10.5)
    assert np.diff(points) == pytest.approx([step] * 4)
    assert found["d"].high - found["d"].low > found["a"].high - found["a"].low
