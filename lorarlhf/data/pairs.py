"""From votes to the weighted pairs a reward model learns from. Knows neither tokens nor SQL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Vote:
    """What a person said once: a comparison is one pair, a ranking all pairs of its answers."""

    pairs: tuple[Pair, ...]

    @property
    def prompt(self) -> Prompt:
        """The conversation it is about."""
        return self.pairs[0].prompt

    @property
    def answers(self) -> list[str]:
        """Every answer once."""
        return list(dict.fromkeys(text for pair in self.pairs for text in (pair.chosen, pair.rejected)))

    @property
    def clear(self) -> bool:
        """Whether any answer was preferred to another."""
        return any(not pair.tie for pair in self.pairs)


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


def votes_of(comparisons: Iterable[Comparison], rankings: Iterable[Ranking] = ()) -> list[Vote]:
    """Turn comparisons (but skips) and rankings into votes."""
    single = [Vote((pair,)) for pair in map(pair_of, comparisons) if pair is not None]
    ranked = [Vote(tuple(pairs_of_ranking(ranking))) for ranking in rankings]
    return single + [vote for vote in ranked if vote.pairs]
