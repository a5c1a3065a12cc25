"""How good a reward model is, as figures: a function of the votes, of its scores of their answers, and of its card.

Every figure about the model is of votes on prompts it never learned from, unless its name says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lorarlhf.evaluate.as_json import as_json
from lorarlhf.evaluate.statistics import (
    Bin,
    Share,
    best_possible,
    binomial_test,
    calibration,
    calibration_error,
    calibration_error_by_chance,
    correlation,
    share_of,
)
from lorarlhf.evaluate.votes import ScoredPair, asked_twice, clear_twice, firsts, learned_of, places, scored_pairs
from lorarlhf.library import SavedAdapter
from lorarlhf.store import Scored, Store
from lorarlhf.types import Comparison, Outcome, prompt_key

PERSON = "(person)"
"""Stands where an adapter's name would, for an answer the person wrote."""
MOST_DISAGREEMENTS = 20
LENGTH_NAMES = ("less than half as long", "shorter", "about as long", "longer", "more than twice as long")
"""How long the preferred answer is, seen from the other: bounds at a half, four fifths, and their inverses."""


@dataclass(frozen=True)
class Calibration:
    """What the model claims against what is so."""

    bins: tuple[Bin, ...]
    error: float
    """Expected calibration error."""
    by_chance: float
    """What a perfectly calibrated model of as many votes stays below in 95 of 100 cases."""
    confidence: float
    """Mean of what it claims."""


@dataclass(frozen=True)
class Length:
    """What the length of an answer does to its score."""

    points: tuple[tuple[int, float], ...]
    """Tokens and score of each answer."""
    correlation: float
    """Spearman's, of tokens and score."""
    model: Share
    """How often the model prefers the longer answer of a pair."""
    person: Share
    """How often the person does, of the same pairs."""
    longer_of_differing: Share
    """Where they prefer different ones: how often it is the model that takes the longer; a half were it no matter
    (Q. McNemar, Psychometrika 12, 1947: only cases on which two judges differ tell them apart)."""
    buckets: tuple[tuple[str, Share], ...]
    """Accuracy by how long the preferred answer is, seen from the other."""


@dataclass(frozen=True)
class Position:
    """Whether the place of an answer decides, whatever stands there. About the person, of all votes of the app."""

    left: Share
    """How often the left answer is preferred."""
    chance: float
    """Probability of so uneven a count, were there no such habit (binomial)."""
    kept_side: Share
    """Of pairs judged differently when their sides were swapped: how often the left side won both times."""
    first: Share
    """Of rankings: how often the answer shown first is best."""
    first_expected: float


@dataclass(frozen=True)
class Group:
    """The accuracy on some of the votes."""

    name: str
    heldout: Share
    learned: Share
    """On votes it learned from: what is low there is lower still elsewhere."""


@dataclass(frozen=True)
class Drawn:
    """Fresh answers of one adapter to held-out prompts, and their scores; the same prompts for each adapter."""

    name: str
    stage: str
    """`sft`, `ppo`, or nothing for the bare base."""
    scores: tuple[float, ...]
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Health:
    """All figures."""

    adapter: str
    accuracy: Share
    learned: Share
    """Accuracy on the votes it learned from, for comparison."""
    prompts: int
    """Different prompts of the votes behind `accuracy`."""
    unscored: int
    """Pairs whose answers are not scored yet, and so counted nowhere."""
    consistency: Share
    """How often the person said the same of a pair that was asked twice."""
    ceiling: tuple[float, float]
    """Between these lies the accuracy of a perfect model."""
    calibration: Calibration | None
    length: Length | None
    position: Position
    groups: dict[str, tuple[Group, ...]]
    """By criterion, reason, rater, round, strength and time of the vote."""
    disagreements: tuple[ScoredPair, ...]
    """Votes the model contradicts most, whether it learned from them or not."""
    voted: tuple[float, ...]
    """Scores of all answers that were voted on."""
    drawn: tuple[Drawn, ...]
    caveats: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Give all of it as JSON, shares with their value."""
        found: dict[str, Any] = as_json(self)
        return found


def judge_of(saved: SavedAdapter) -> str:
    """Name a reward model by content: scores of the same name are by the same numbers."""
    return " ".join(str(saved.card["hashes"].get(part, ""))[:16] for part in ("adapter", "head"))


def drawn_key(saved: SavedAdapter) -> str:
    """Name the row of the workspace that keeps the answers drawn for a reward model."""
    return f"drawn answers {judge_of(saved)}"


def health_of(store: Store, saved: SavedAdapter) -> Health:
    """Compute all figures of a reward model from what is stored."""
    learned = learned_of(store, saved)
    pairs, unscored = scored_pairs(store, judge_of(saved), learned)
    drawn = store.get_meta(drawn_key(saved), {}).get("answers", ())
    return figures(
        saved.name,
        pairs,
        unscored=unscored,
        twice=asked_twice(store),
        sides=[left for _, left in places(store.comparisons())],
        first=list(firsts(store.rankings(), PERSON)),
        drawn=[Drawn(d["name"], d["stage"], tuple(d["scores"]), tuple(d["tokens"])) for d in drawn],
        caveats=learned.caveats,
    )


def figures(
    adapter: str,
    pairs: Sequence[ScoredPair],
    *,
    unscored: int = 0,
    twice: Sequence[tuple[Comparison, Comparison]] = (),
    sides: Sequence[bool] = (),
    first: Sequence[tuple[float, int]] = (),
    drawn: Sequence[Drawn] = (),
    caveats: Sequence[str] = (),
) -> Health:
    """Compute all figures from scored pairs and from what is known about the person."""
    clear = [one for one in pairs if not one.pair.tie]
    new = [one for one in clear if not one.learned]
    consistency = _consistency(twice)
    scores = {key: scored.score for one in pairs for key, scored in _answers(one)}
    return Health(
        adapter=adapter,
        accuracy=_accuracy(new),
        learned=_accuracy(one for one in clear if one.learned),
        prompts=len({one.key for one in new}),
        unscored=unscored,
        consistency=consistency,
        ceiling=best_possible(consistency.value) if consistency else (math.nan, math.nan),
        calibration=_calibration(new) if new else None,
        length=_length(new),
        position=_position(twice, sides, first),
        groups=_groups(pairs),
        disagreements=_disagreements(clear),
        voted=tuple(scores.values()),
        drawn=tuple(drawn),
        caveats=tuple(caveats),
    )


def _accuracy(pairs: Iterable[ScoredPair]) -> Share:
    some = list(pairs)
    return share_of([one.right for one in some], [one.pair.weight for one in some], [one.key for one in some])


def _answers(one: ScoredPair) -> Iterable[tuple[tuple[str, str], Scored]]:
    """Give both answers by prompt and text: the same one in several pairs is one answer."""
    prompt = prompt_key(one.pair.prompt)
    yield (prompt, one.pair.chosen), one.chosen
    yield (prompt, one.pair.rejected), one.rejected


# -- the model --------------------------------------------------------------------------------------------------


def _calibration(pairs: Sequence[ScoredPair]) -> Calibration:
    sure, weights = [one.confidence for one in pairs], [one.pair.weight for one in pairs]
    bins = calibration(sure, [one.right for one in pairs], weights, [one.key for one in pairs])
    mean = math.fsum(c * w for c, w in zip(sure, weights, strict=True)) / math.fsum(weights)
    return Calibration(tuple(bins), calibration_error(bins), calibration_error_by_chance(sure, weights), mean)


def _length(pairs: Sequence[ScoredPair]) -> Length | None:
    uneven = [one for one in pairs if one.chosen.tokens != one.rejected.tokens and one.gap]
    if not uneven:
        return None
    person = [one.chosen.tokens > one.rejected.tokens for one in uneven]
    model = [longer == (one.gap > 0) for one, longer in zip(uneven, person, strict=True)]
    weights, keys = [one.pair.weight for one in uneven], [one.key for one in uneven]
    points = {key: (scored.tokens, scored.score) for one in pairs for key, scored in _answers(one)}
    tokens, scores = zip(*points.values(), strict=True)
    differing = [i for i, (ours, theirs) in enumerate(zip(model, person, strict=True)) if ours != theirs]

    def share(longer: Sequence[bool], places: Sequence[int]) -> Share:
        return share_of([float(longer[i]) for i in places], [weights[i] for i in places], [keys[i] for i in places])

    return Length(
        points=tuple(points.values()),
        correlation=correlation(tokens, scores),
        model=share(model, range(len(uneven))),
        person=share(person, range(len(uneven))),
        longer_of_differing=share(model, differing),
        buckets=tuple(_by_length(pairs)),
    )


def _by_length(pairs: Sequence[ScoredPair]) -> Iterable[tuple[str, Share]]:
    for place, name in enumerate(LENGTH_NAMES):
        yield name, _accuracy(one for one in pairs if _length_bucket(one) == place)


def _length_bucket(one: ScoredPair) -> int:
    """Place a pair by how long its preferred answer is; were the other one preferred, the place is the mirrored one."""
    ratio = max(1, one.chosen.tokens) / max(1, one.rejected.tokens)
    return sum((ratio >= 0.5, ratio >= 0.8, ratio > 1.25, ratio > 2))


def _groups(pairs: Sequence[ScoredPair]) -> dict[str, tuple[Group, ...]]:
    strengths = {1: "better", 2: "much better"}
    clear = [one for one in pairs if not one.pair.tie]
    new = [one for one in clear if not one.learned]
    found = {
        "criterion": _criteria(pairs),
        "reason": _grouped(clear, lambda one: one.reasons),
        "rater": _grouped(clear, lambda one: [one.rater or "no name"]),
        "round": _grouped(clear, lambda one: [f"round {one.round}"]),
        "strength": _grouped(clear, lambda one: [strengths.get(one.pair.strength, f"strength {one.pair.strength}")]),
        "time": _grouped(new, lambda one: ["cast since it was trained" if one.since else "kept apart in training"]),
    }
    # A single group of everything says nothing that the whole does not say.
    split = ("rater", "round", "strength", "time")
    return {name: groups for name, groups in found.items() if groups and not (name in split and len(groups) == 1)}


def _grouped(pairs: Sequence[ScoredPair], names: Callable[[ScoredPair], Iterable[str]]) -> tuple[Group, ...]:
    groups: dict[str, list[ScoredPair]] = {}
    for one in pairs:
        for name in names(one):
            groups.setdefault(name, []).append(one)
    return tuple(
        Group(name, _accuracy(p for p in some if not p.learned), _accuracy(p for p in some if p.learned))
        for name, some in sorted(groups.items())
    )


def _criteria(pairs: Sequence[ScoredPair]) -> tuple[Group, ...]:
    """Compare the score with what was said on each criterion, also where the verdict was a tie."""
    said: dict[str, list[tuple[ScoredPair, float]]] = {}
    for one in pairs:
        for name, outcome in one.pair.criteria:
            if outcome in (Outcome.A, Outcome.B):
                right = one.right if outcome is Outcome.A else 1 - one.right
                said.setdefault(name, []).append((one, right))

    def share(some: list[tuple[ScoredPair, float]], learned: bool) -> Share:
        own = [(one, right) for one, right in some if one.learned == learned]
        return share_of([r for _, r in own], [one.pair.weight for one, _ in own], [one.key for one, _ in own])

    return tuple(Group(name, share(some, False), share(some, True)) for name, some in sorted(said.items()))


def _disagreements(clear: Sequence[ScoredPair]) -> tuple[ScoredPair, ...]:
    wrong = [one for one in clear if one.gap < 0 and one.kind == "comparisons" and one.second_look is None]
    return tuple(sorted(wrong, key=lambda one: one.gap)[:MOST_DISAGREEMENTS])


# -- the person -------------------------------------------------------------------------------------------------

Twice = Sequence[tuple[Comparison, Comparison]]


def _consistency(twice: Twice) -> Share:
    return share_of([float(one.outcome is two.outcome) for one, two in clear_twice(twice)])


def _position(twice: Twice, sides: Sequence[bool], first: Sequence[tuple[float, int]]) -> Position:
    changed = [one for one, two in clear_twice(twice) if one.outcome is not two.outcome and one.left != two.left]
    return Position(
        left=share_of(map(float, sides)),
        chance=binomial_test(sum(sides), len(sides)),
        kept_side=share_of(float(one.outcome.value == one.left) for one in changed),
        first=share_of(best for best, _ in first),
        first_expected=sum(1 / count for _, count in first) / len(first) if first else math.nan,
    )


# -- as JSON ----------------------------------------------------------------------------------------------------


@as_json.register
def _(one: ScoredPair) -> dict[str, Any]:
    return {
        "row": one.row,
        "prompt": [dict(turn) for turn in one.pair.prompt],
        "preferred": one.pair.chosen,
        "other": one.pair.rejected,
        "scores": [one.chosen.score, one.rejected.score],
        "learned": one.learned,
        "rater": one.rater,
    }
