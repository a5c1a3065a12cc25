"""What became of a policy: the same figures of its reference, before, and of the policy, after. A function of rows.

Before and after answer the same prompts, kept apart from training, drawn as PPO draws them, so that every interval is
one of paired differences. The course over its run comes from what the run wrote down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any

from lorarlhf.algo.intervals import wilson_interval
from lorarlhf.evaluate.as_json import as_json
from lorarlhf.evaluate.paired import Estimate, difference, mean_of, ratio
from lorarlhf.evaluate.repetition import distinct_of_equal_length
from lorarlhf.evaluate.statistics import Share, binomial_test
from lorarlhf.library import SavedAdapter
from lorarlhf.reading import Remark, about_training, series_of
from lorarlhf.store import Store

SIDES = ("before", "after")
MOST_READ = 3
"""Answers that are put in front of the person."""


@dataclass(frozen=True)
class Answer:
    """One answer of one side."""

    prompt: str
    """Its last turn."""
    text: str
    tokens: tuple[int, ...]
    ended: bool
    """Whether the model ended it by itself."""
    entropy: float
    """Mean over its tokens, of the distribution each was drawn from; in nats."""
    kl: float
    """log p − log p of the reference over the whole answer; 0 before."""
    repeated: float
    """Share of its 4-grams that stood in it before."""
    score: float | None = None
    """As PPO counts it; None where there is no reward model."""
    heads: tuple[float, ...] = ()
    """What each head of the ensemble says, on the scale of the reward model."""
    least: float = math.nan
    """The lowest of them, as PPO would count it."""


@dataclass(frozen=True)
class Change:
    """A figure before and after, and how much it changed: as a difference or, with `by_ratio`, as a factor."""

    before: float
    after: float
    change: Estimate
    by_ratio: bool = False


@dataclass(frozen=True)
class Known:
    """What it knows of forty questions."""

    questions: int
    before: int
    after: int
    lost: int
    """Right before, and wrong after."""
    won: int
    chance: float
    """Probability of so uneven a count of lost and won, were there no change (binomial, after McNemar 1947)."""
    guessing: float
    """Questions that guessing gets right on average."""


@dataclass(frozen=True)
class Stop:
    """One evaluation of the run."""

    step: int
    kl: float
    score: float
    length: float
    ended: float
    entropy: float
    """Of the training answers of that step; NaN before the first."""
    least: float = math.nan
    """Mean over sample answers of the lowest score that a head gives; NaN where no sample was kept."""
    disagreement: float = math.nan
    repeated: float = math.nan


@dataclass(frozen=True)
class Drift:
    """All figures."""

    adapter: str
    reference: str
    reward: str
    """Empty where there is none."""
    prompts: int
    heads: int
    kl: Estimate
    """Nats an answer."""
    reward_gain: Change | None
    least_gain: Change | None
    disagreement: Change | None
    length: Change
    entropy: Change
    repeated: Change
    ended: tuple[Share, Share]
    distinct: tuple[float, float]
    perplexity: Change
    known: Known
    course: tuple[Stop, ...]
    spread: float
    """Standard deviation of the reference's scores."""
    to_read: tuple[tuple[Answer, Answer], ...]
    """Before and after, where the heads disagree most, or the reward rose most."""
    from_run: tuple[Remark, ...] = ()
    caveats: tuple[str, ...] = ()

    @property
    def root_kl(self) -> float:
        """√KL, along which rewards rise and fall (Gao et al., arXiv 2210.10760)."""
        return math.sqrt(max(0.0, self.kl.value))

    def as_json(self) -> dict[str, Any]:
        """Give all of it as JSON; what is not known is null."""
        found: dict[str, Any] = as_json(self)
        return found


def drift_key(saved: SavedAdapter) -> str:
    """Name the row of the workspace that keeps what was drawn of a policy, by its content."""
    return f"drift {saved.hash}"


def drift_of(store: Store, saved: SavedAdapter) -> Drift | None:
    """Compute all figures of a policy from what is stored; None where it was not measured yet."""
    kept = store.get_meta(drift_key(saved))
    if not kept:
        return None
    run = next((row for row in store.runs() if row.id == saved.card.get("run")), None)
    remarks = about_training(run, series_of(store, run.id)) if run else ()
    return figures(saved.name, kept, from_run=remarks)


def figures(adapter: str, kept: dict[str, Any], *, from_run: Iterable[Remark] = ()) -> Drift:
    """Compute all figures from what the engine wrote down."""
    before, after = ([_answer(row, kept["unended"]) for row in kept[side]] for side in SIDES)
    texts = [kept["text"][side] for side in SIDES]
    first, second = distinct_of_equal_length([a.tokens for a in before], [a.tokens for a in after])
    return Drift(
        adapter=adapter,
        reference=kept["reference"],
        reward=kept["reward"],
        prompts=len(after),
        heads=len(after[0].heads),
        kl=mean_of([a.kl for a in after]),
        reward_gain=_scores(before, after),
        least_gain=_least(before, after),
        disagreement=_disagreement(before, after),
        length=_by_ratio([float(len(a.tokens)) for a in before], [float(len(a.tokens)) for a in after]),
        entropy=_by_ratio([a.entropy for a in before], [a.entropy for a in after]),
        repeated=_risen([a.repeated for a in before], [a.repeated for a in after]),
        ended=(_share(a.ended for a in before), _share(a.ended for a in after)),
        distinct=(first, second),
        perplexity=_perplexity(*texts),
        known=_known(kept["right"]["before"], kept["right"]["after"], kept["options"]),
        course=tuple(_stop(row) for row in kept["course"]),
        spread=pstdev([a.score for a in before if a.score is not None] or [0.0]),
        to_read=_to_read(before, after),
        from_run=tuple(from_run),
        caveats=tuple(kept["caveats"]),
    )


def _answer(row: dict[str, Any], unended: float) -> Answer:
    least = min([*row["heads"], *([] if row["ended"] else [unended])], default=math.nan)
    return Answer(**{**row, "tokens": tuple(row["tokens"]), "heads": tuple(row["heads"])}, least=least)


def _stop(row: dict[str, Any]) -> Stop:
    known: dict[str, Any] = {name: math.nan if value is None else value for name, value in row.items()}
    return Stop(**known)


# -- each figure ------------------------------------------------------------------------------------------------


def _risen(before: Sequence[float], after: Sequence[float]) -> Change:
    return Change(fmean(before), fmean(after), difference(before, after))


def _by_ratio(before: Sequence[float], after: Sequence[float]) -> Change:
    return Change(fmean(before), fmean(after), ratio(before, after), by_ratio=True)


def _share(values: Iterable[bool]) -> Share:
    found = list(values)
    return Share(sum(found), len(found), *wilson_interval(sum(found), len(found)))


def _scores(before: Sequence[Answer], after: Sequence[Answer]) -> Change | None:
    scores = [[a.score for a in side if a.score is not None] for side in (before, after)]
    return _risen(*scores) if all(scores) else None


def _least(before: Sequence[Answer], after: Sequence[Answer]) -> Change | None:
    """Compare what the most doubtful head says of each answer (worst case of Coste et al., arXiv 2310.02743)."""
    if not after[0].heads:
        return None
    return _risen([a.least for a in before], [a.least for a in after])


def _disagreement(before: Sequence[Answer], after: Sequence[Answer]) -> Change | None:
    if not after[0].heads:
        return None
    return _by_ratio([pstdev(a.heads) for a in before], [pstdev(a.heads) for a in after])


def _perplexity(before: Sequence[dict[str, float]], after: Sequence[dict[str, float]]) -> Change:
    """Compare the perplexity of the fixed text; its sentences are the independent cases.

    The change is the factor of perplexity: e to the mean difference of surprise a token.
    """
    tokens = [row["tokens"] for row in before]
    mean = fmean(tokens)
    first, second = (math.fsum(row["surprise"] for row in side) / math.fsum(tokens) for side in (before, after))
    # Residuals of a ratio whose denominator, the number of tokens, is the same on both sides.
    rise = second - first
    moved = [
        (new["surprise"] - old["surprise"] - rise * count) / mean + rise
        for old, new, count in zip(before, after, tokens, strict=True)
    ]
    found = mean_of(moved)
    factor = Estimate(*(_exp(x) for x in (found.value, found.low, found.high)))
    return Change(_exp(first), _exp(second), factor, by_ratio=True)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def _known(before: Sequence[bool], after: Sequence[bool], options: Sequence[int]) -> Known:
    lost = sum(old and not new for old, new in zip(before, after, strict=True))
    won = sum(new and not old for old, new in zip(before, after, strict=True))
    guessing = math.fsum(1 / count for count in options)
    return Known(len(before), sum(before), sum(after), lost, won, binomial_test(lost, lost + won), guessing)


def _to_read(before: Sequence[Answer], after: Sequence[Answer]) -> tuple[tuple[Answer, Answer], ...]:
    """Choose the answers a person should look at: most doubtful first, else those whose reward rose most."""

    def doubt(pair: tuple[Answer, Answer]) -> float:
        old, new = pair
        if new.heads:
            return pstdev(new.heads)
        return (new.score or 0.0) - (old.score or 0.0)

    changed = [(old, new) for old, new in zip(before, after, strict=True) if old.text != new.text]
    return tuple(sorted(changed, key=doubt, reverse=True)[:MOST_READ])


# -- as JSON ----------------------------------------------------------------------------------------------------


@as_json.register
def _(answer: Answer) -> dict[str, Any]:
    """Tell the number of its tokens, and not which."""
    return {name: as_json(value) for name, value in {**vars(answer), "tokens": len(answer.tokens)}.items()}
