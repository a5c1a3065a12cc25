"""Best of n: what choosing the answer that scores highest would gain, and at which KL. PPO tried out, untrained.

Whatever n from 1 to the number drawn is estimated from the same answers, over all subsets of that size at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lorarlhf.evaluate.as_json import as_json
from lorarlhf.evaluate.health import judge_of
from lorarlhf.evaluate.paired import Estimate, difference, ratio
from lorarlhf.figures import figure, number
from lorarlhf.library import SavedAdapter
from lorarlhf.reading import Remark
from lorarlhf.store import Store

FEWEST = 10
"""Prompts without which nothing is said."""
ALIKE = 0.1
"""Answers to one prompt whose scores spread less than this share of those voted on are all the same to the model."""
MUCH_LONGER = 1.3
EXAMPLES = 3
"""Prompts whose answers are shown: the first, so that nobody picked them."""


def weights(drawn: int, n: int) -> list[float]:
    """Return how often each of `drawn` answers, the lowest first, is the best of a subset of n of them.

    The i-th lowest is the best of C(i − 1, n − 1) of the C(N, n) subsets. The mean over all subsets is the estimator
    without bias that has the least variance, for a function of n answers drawn alike (W. Hoeffding, Annals of
    Mathematical Statistics 19, 1948; as in pass@k, arXiv 2107.03374).
    """
    if not 1 <= n <= drawn:
        raise ValueError(f"n must lie between 1 and {drawn}, not {n}")
    return [math.comb(place, n - 1) / math.comb(drawn, n) for place in range(drawn)]


def expected_best(scores: Sequence[float], n: int, values: Sequence[float] | None = None) -> float:
    """Estimate the mean score of the best of n, from one prompt's answers; with `values`, the mean of those instead.

    Where several score alike, each of them is chosen as often.
    """
    values = scores if values is None else values
    order = sorted(range(len(scores)), key=scores.__getitem__)
    shares = weights(len(scores), n)
    total, start = 0.0, 0
    while start < len(order):
        end = start
        while end < len(order) and scores[order[end]] == scores[order[start]]:
            end += 1
        alike = math.fsum(values[order[i]] for i in range(start, end)) / (end - start)
        total += alike * math.fsum(shares[start:end])
        start = end
    return total


def best_of_kl(n: int) -> float:
    """Return the KL of best-of-n from what it chooses among, in nats: log n − (n − 1) / n.

    Exact where no two answers score alike, else an upper bound (Beirami et al., arXiv 2401.01879).
    """
    return math.log(n) - (n - 1) / n


# -- what was drawn, and what it comes to ------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """What the best of n would be."""

    n: int
    kl: float
    gain: Estimate
    """Reward above that of a single answer."""
    least: Estimate
    """The same by the least of the ensemble, which did not choose."""
    tokens: Estimate
    """Length by that of a single answer."""


@dataclass(frozen=True)
class Example:
    """One prompt with the answer that scores highest and the one in the middle."""

    prompt: str
    best: str
    best_score: float
    middle: str
    middle_score: float


@dataclass(frozen=True)
class BestOf:
    """A try-out of best-of-n on held-out prompts."""

    adapter: str
    reward: str
    prompts: int
    drawn: int
    points: tuple[Point, ...]
    spread: float
    """Standard deviation of the scores of one prompt's answers."""
    mean: float
    """Mean score of a single answer."""
    voted: float
    """Standard deviation of the scores of all answers that were voted on."""
    heads: int
    """Members of the ensemble; 0 where there were too few votes for one."""
    caveats: tuple[str, ...] = ()
    examples: tuple[Example, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Give all of it as JSON; what is not known is null."""
        found: dict[str, Any] = as_json(self)
        return found

    @property
    def whole(self) -> Point:
        """The best of all that were drawn."""
        return self.points[-1]


def best_of_key(adapter: SavedAdapter | None, judge: str) -> str:
    """Name the row of the workspace that keeps the answers of an adapter, and what a reward model says of them."""
    return f"best of {adapter.hash if adapter else ''} {judge}"


def best_of_in(store: Store, adapter: SavedAdapter | None, reward: SavedAdapter) -> BestOf | None:
    """Compute the figures from what is stored; None where it was not tried out yet."""
    kept = store.get_meta(best_of_key(adapter, judge_of(reward)))
    return best_of(kept) if kept else None


def best_of(kept: dict[str, Any]) -> BestOf:
    """Compute the figures from what was drawn: per prompt, the scores, lengths and least scores of its answers."""
    prompts = [row["scores"] for row in kept["prompts"]]
    spreads = [_variance(scores) for scores in prompts]
    drawn = len(prompts[0])
    return BestOf(
        adapter=kept["adapter"],
        reward=kept["reward"],
        prompts=len(prompts),
        drawn=drawn,
        points=tuple(_point(kept["prompts"], n) for n in range(1, drawn + 1)),
        spread=math.sqrt(math.fsum(spreads) / len(spreads)),
        mean=math.fsum(map(math.fsum, prompts)) / (len(prompts) * drawn),
        voted=kept["voted"],
        heads=kept["heads"],
        caveats=tuple(kept["caveats"]),
        examples=tuple(_example(row) for row in kept["prompts"][:EXAMPLES] if "texts" in row),
    )


def _example(row: dict[str, Any]) -> Example:
    order = sorted(range(len(row["scores"])), key=row["scores"].__getitem__)
    best, middle = order[-1], order[(len(order) - 1) // 2]
    texts, scores = row["texts"], row["scores"]
    return Example(row["prompt"], texts[best], scores[best], texts[middle], scores[middle])


def _point(rows: Sequence[dict[str, Any]], n: int) -> Point:
    def single_and_best(values: str) -> tuple[list[float], list[float]]:
        one, best = ([expected_best(row["scores"], size, row[values]) for row in rows] for size in (1, n))
        return one, best

    gain, least = (difference(*single_and_best(values)) for values in ("scores", "least"))
    return Point(n, best_of_kl(n), gain, least, ratio(*single_and_best("tokens")))


def _variance(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** 2 for value in values) / max(1, len(values) - 1)


# -- in words ---------------------------------------------------------------------------------------------------


def verdict(found: BestOf) -> str:
    """Say what the best of all would gain, in a sentence."""
    best = found.whole
    return (
        f"Picking the best of {found.drawn} answers of {found.adapter} by {found.reward} gains "
        f"{number(best.gain.value)} reward (95 % interval {number(best.gain.low)} to {number(best.gain.high)}). "
        "PPO can aim for about that"
    )


def remarks(found: BestOf) -> list[Remark]:
    """Say what speaks against PPO with this reward model from here, the gravest first; few prompts say nothing."""
    if found.prompts < FEWEST or found.drawn < 2:
        return []
    return [remark for rule in RULES if (remark := rule(found))]


def _nothing_to_choose(found: BestOf) -> Remark | None:
    if found.spread > max(ALIKE * found.voted, 1e-6):
        return None
    return Remark(
        f"Scores of answers to one prompt spread by {number(found.spread)}, those voted on by {number(found.voted)}",
        "to the reward model they are all alike, so that PPO has nothing to go by",
        "Draw at a higher temperature, or rate answers that differ more and train the reward model again",
    )


def _only_the_judge(found: BestOf) -> Remark | None:
    best = found.whole
    if not found.heads or not best.gain.above(0) or best.least.above(0):
        return None
    return Remark(
        f"The best of {found.drawn} gains {number(best.gain.value)} by the reward model, {number(best.least.value)} "
        f"({number(best.least.low)} to {number(best.least.high)}) by the least of {found.heads} heads fitted to your "
        "votes in other ways",
        "what it chooses by is not in your votes for certain, and PPO would go after just that",
        "Rate more answers of this adapter, and train the reward model again before PPO",
    )


def _longer(found: BestOf) -> Remark | None:
    best = found.whole
    if not (best.tokens.value > MUCH_LONGER and best.tokens.above(1)):
        return None
    return Remark(
        f"The best of {found.drawn} are {best.tokens.value - 1:.0%} longer than a single answer",
        "the reward model goes by length, and PPO would make answers longer still",
        "Rate pairs whose shorter answer is the better one, and train the reward model again",
    )


RULES = (_nothing_to_choose, _only_the_judge, _longer)
FINE = "Nothing here speaks against PPO from this adapter with this reward model"


def told(found: BestOf) -> str:
    """Write the whole try-out for a terminal."""
    lines = [verdict(found), *found.caveats]
    lines += [f"! {remark}" for remark in remarks(found)] or [FINE if found.prompts >= FEWEST else few(found)]
    lines += ["", "best of   KL up to   reward gained             least of the ensemble   length"]
    shown = [point for point in found.points if point.n & (point.n - 1) == 0 or point is found.whole]
    for point in shown:
        value, low, high = (figure(one, "+.2f") for one in (point.gain.value, point.gain.low, point.gain.high))
        gain = f"{value} ({low} to {high})"
        least = figure(point.least.value, "+.2f") if found.heads else "–"
        lines.append(f"{point.n:>7}   {point.kl:>8.2f}   {gain:<26}{least:<24}{point.tokens.value:.0%}")
    lines.append("PPO pays more KL for the same gain (arXiv 2210.10760), and changes the adapter; this changes nothing")
    return "\n".join(lines)


def few(found: BestOf) -> str:
    """Say that there are too few prompts."""
    return f"{found.prompts} prompts are too few to say more; {FEWEST} are the least"
