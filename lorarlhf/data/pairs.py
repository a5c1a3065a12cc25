"""From votes to the weighted pairs a reward model learns from. Knows neither tokens nor SQL."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

from lorarlhf.types import Comparison, Outcome, Prompt, Ranking


class Pair(NamedTuple):
    """Two answers, the better one first unless it is a tie."""

    prompt: Prompt
    chosen: str
    rejected: str
    tie: bool = False
    both_bad: bool = False
    strength: int = 1
    weight: float = 1.0
    criteria: tuple[tuple[str, Outcome], ...] = ()
    """Per criterion: A where the chosen answer was better on it, B where the rejected one was."""


def pair_of(comparison: Comparison) -> Pair | None:
    """Turn one comparison into a pair; None for a skip, which says nothing."""
    if comparison.outcome is Outcome.SKIP:
        return None
    if comparison.outcome is Outcome.B:
        comparison = comparison.swap()
    return Pair(
        comparison.prompt,
        comparison.a,
        comparison.b,
        tie=comparison.outcome in (Outcome.TIE, Outcome.BOTH_BAD),
        both_bad=comparison.outcome is Outcome.BOTH_BAD,
        strength=comparison.strength,
        criteria=tuple(sorted(comparison.criteria.items())),
    )


def pairs_of_ranking(ranking: Ranking) -> list[Pair]:
    """Expand a ranking of K answers into its K(K−1)/2 pairs, which together weigh as much as one vote.

    The weight is InstructGPT's (arXiv 2203.02155, equation 1): without it one ranking of six answers would count
    as fifteen votes that are anything but independent.
    """
    answers = list(zip(ranking.completions, ranking.ranks, strict=True))
    couples = list(combinations(answers, 2))
    pairs = []
    for (first, first_rank), (second, second_rank) in couples:
        chosen, rejected = (first, second) if first_rank <= second_rank else (second, first)
        pairs.append(Pair(ranking.prompt, chosen, rejected, tie=first_rank == second_rank, weight=1 / len(couples)))
    return pairs


def pairs_of(comparisons: Iterable[Comparison], rankings: Iterable[Ranking] = ()) -> list[Pair]:
    """Turn votes of both kinds into pairs."""
    single = [pair for pair in map(pair_of, comparisons) if pair is not None]
    return single + [pair for ranking in rankings for pair in pairs_of_ranking(ranking)]
