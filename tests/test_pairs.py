"""From votes to pairs: who is chosen, what a criterion then means, how much a ranking weighs."""

from __future__ import annotations

from itertools import permutations

import pytest

from lorarlhf.data.pairs import Pair, pair_of, pairs_of_ranking, votes_of
from lorarlhf.types import Comparison, Outcome, Ranking, user

PROMPT = user("Say something.")
A, B, TIE, BOTH_BAD, SKIP = Outcome.A, Outcome.B, Outcome.TIE, Outcome.BOTH_BAD, Outcome.SKIP


def vote(outcome, **extra):
    return Comparison(PROMPT, "first", "second", outcome, **extra)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (A, Pair(PROMPT, "first", "second", strength=2)),
        (B, Pair(PROMPT, "second", "first", strength=2)),
        (TIE, Pair(PROMPT, "first", "second", tie=True, strength=2)),
        (BOTH_BAD, Pair(PROMPT, "first", "second", tie=True, both_bad=True, strength=2)),
        (SKIP, None),
    ],
)
def test_what_each_outcome_becomes(outcome, expected):
    assert pair_of(vote(outcome, strength=2)) == expected


@pytest.mark.parametrize("outcome", [A, B])
def test_which_answer_stood_where_does_not_change_a_pair(outcome):
    comparison = vote(outcome, criteria={"warm": B, "short": TIE, "true": A})
    assert pair_of(comparison) == pair_of(comparison.swap())
    assert pair_of(comparison) == pair_of(vote(outcome, left="b", criteria=comparison.criteria))


def test_criteria_are_told_from_the_chosen_answers_side():
    kept = pair_of(vote(A, criteria={"warm": B, "true": A, "short": TIE}))
    assert kept.criteria == (("short", TIE), ("true", A), ("warm", B))
    turned = pair_of(vote(B, criteria={"warm": B, "true": A, "short": TIE}))
    # The chosen answer is now the second: it won on warmth and lost on truth.
    assert turned.criteria == (("short", TIE), ("true", B), ("warm", A))
    tied = pair_of(vote(TIE, criteria={"warm": B}))
    assert (tied.chosen, tied.criteria) == ("first", (("warm", B),))


@pytest.mark.parametrize("ranks", sorted(set(permutations([1, 2, 2, 3]))))
def test_a_ranking_is_all_its_pairs_and_weighs_as_one_vote(ranks):
    names = ("w", "x", "y", "z")
    place = dict(zip(names, ranks, strict=True))
    pairs = pairs_of_ranking(Ranking(PROMPT, names, ranks))
    assert len(pairs) == 6
    assert sum(pair.weight for pair in pairs) == pytest.approx(1.0)
    assert {frozenset((p.chosen, p.rejected)) for p in pairs} == {
        frozenset((a, b)) for a in names for b in names if a < b
    }
    for pair in pairs:
        assert pair.tie == (place[pair.chosen] == place[pair.rejected])
        assert pair.tie or place[pair.chosen] < place[pair.rejected]
        assert not pair.both_bad


def test_rankings_of_one_say_nothing_and_of_two_are_a_vote():
    assert pairs_of_ranking(Ranking(PROMPT, ("only",), (1,))) == []
    assert pairs_of_ranking(Ranking(PROMPT, ("bad", "good"), (2, 1))) == [Pair(PROMPT, "good", "bad")]


def test_a_ranking_with_a_missing_place_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        pairs_of_ranking(Ranking(PROMPT, ("a", "b", "c"), (1, 2)))


def test_votes_of_both_kinds_together():
    votes = votes_of([vote(SKIP), vote(B)], [Ranking(PROMPT, ("p", "q"), (1, 2)), Ranking(PROMPT, ("only",), (1,))])
    assert [[(p.chosen, p.rejected) for p in vote.pairs] for vote in votes] == [[("second", "first")], [("p", "q")]]
    (ranked,) = votes_of([], [Ranking(PROMPT, ("p", "q", "r"), (2, 1, 3))])
    assert len(ranked.pairs) == 3
    assert sorted(ranked.answers) == ["p", "q", "r"]  # each once
