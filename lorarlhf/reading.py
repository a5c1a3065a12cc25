"""Read a run's numbers aloud: what is seen, what it means, what helps. By rule, for app and terminal alike; no torch.

A number that is said is one that the charts show: the newest of its series. A rule on noisy numbers of single
batches also asks the median of the newest few, so that one odd batch raises no alarm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import NamedTuple

from lorarlhf.figures import figure, number
from lorarlhf.store import RunRow, Store

Point = tuple[float, float]
"""(step, value)"""
Series = Mapping[str, Sequence[Point]]
"""Metric → its points, in order of steps."""

RECENT = 3
"""Points that are looked at together."""
FEW_VOTES = 20
"""Fewer held-out votes tell little: 14 right of 19 mean an accuracy anywhere between 51 and 88 % (Wilson, 95 %)."""
BEST_STEP = "run/best_step"
"""In a run's result: the step whose adapter was kept."""
FAR_NATS, MOVED_NATS = 30.0, 10.0
"""KL an answer from which on answers are far from the SFT model's, and clearly other ones (FACTS.md)."""
START_NATS, START_RATIO = 0.1, 0.05
"""KL, and distance of the ratio from 1, beyond which a policy that was not updated yet is not its reference."""


class Remark(NamedTuple):
    """Something the charts show."""

    seen: str
    """With the number, and the step it is of."""
    means: str
    do: str

    def __str__(self) -> str:
        """Write it as sentences."""
        return f"{self.seen}: {self.means}. {self.do}."


Rule = Callable[[RunRow, Series], Remark | None]


def remarks(run: RunRow, series: Series) -> list[Remark]:
    """Apply the rules of a run's stage."""
    return [remark for rule in RULES.get(run.stage, ()) if (remark := rule(run, series))]


def series_of(store: Store, run: str) -> dict[str, list[Point]]:
    """Read a run's numbers, by metric."""
    found: dict[str, list[Point]] = {}
    for step, name, value in store.metrics(run):
        found.setdefault(name, []).append((step, value))
    return found


# -- what is there ----------------------------------------------------------------------------------------------


def best_step(run: RunRow, series: Series) -> int | None:
    """Find the step whose adapter is kept, as the loop chooses it; None before anything was measured."""
    if run.stage == "ppo":
        price, budget = run.settings.get("kl_coef", 0.0), run.settings.get("kl_budget", math.inf)
        kl = dict(series.get("eval/kl", ()))
        quality = [(step, y - price * kl[step]) for step, y in _points(series, "eval/scores") if kl[step] <= budget]
    else:
        quality = [(step, -y) for step, y in _points(series, "eval/loss")]
    return int(max(quality, key=lambda point: point[1])[0]) if quality else None


def _points(series: Series, name: str) -> list[Point]:
    return [(x, y) for x, y in series.get(name, ()) if math.isfinite(y)]


def _values(series: Series, name: str) -> list[float]:
    return [y for _, y in _points(series, name)]


def _latest(series: Series, name: str) -> Point:
    found = _points(series, name)
    return found[-1] if found else (math.nan, math.nan)


class _Course(NamedTuple):
    """How a noisy series went; all NaN, which no rule is about, before it is long enough."""

    first: float
    """Median of the first few."""
    recent: float
    """Median of the newest few."""
    last: float
    step: float

    def above(self, bound: float) -> bool:
        """Tell whether it has come to stay above a bound."""
        return self.recent > bound and self.last > bound

    def below(self, bound: float) -> bool:
        """Tell whether it has come to stay below a bound."""
        return self.recent < bound and self.last < bound


def _course(series: Series, name: str, after: float = 0) -> _Course:
    points = [point for point in _points(series, name) if point[0] > after]
    if len(points) < 2 * RECENT:
        return _Course(math.nan, math.nan, math.nan, math.nan)
    values = [y for _, y in points]
    return _Course(median(values[:RECENT]), median(values[-RECENT:]), values[-1], points[-1][0])


def _quarters(series: Series, name: str) -> tuple[float, float]:
    """Give the means of the first and of the last quarter; NaN where they are too short to say anything."""
    values = _values(series, name)
    quarter = len(values) // 4
    return (fmean(values[:quarter]), fmean(values[-quarter:])) if quarter >= RECENT else (math.nan, math.nan)


# -- every stage ------------------------------------------------------------------------------------------------


def _untrained_kept(run: RunRow, series: Series) -> Remark | None:
    points = _points(series, "eval/scores" if run.stage == "ppo" else "eval/loss")
    if run.status != "done" or len(points) < 2 or best_step(run, series) != 0:
        return None
    kept = {"sft": "adapter", "reward": "reward model", "ppo": "policy"}[run.stage]
    return Remark(
        f"The best on held-out data is step 0, before training ({number(points[0][1])})",
        f"the {kept} as it began is what was kept, so this run changed nothing",
        "Lower the learning rate, or train on more data",
    )


def _loss_goes_wrong(run: RunRow, series: Series) -> Remark | None:
    first, last = _quarters(series, f"loss/{run.stage}")
    seen = f"The training loss is {number(last)} in the newest quarter of the steps, {number(first)} in the first"
    if last > 1.1 * first:
        return Remark(seen, "it rises, the steps are too long", "Lower the learning rate")
    if last > 0.98 * first:
        return Remark(
            seen, "it does not fall, so little is being learnt", "Raise the learning rate, or look at the data"
        )
    return None


def _heldout_rises(run: RunRow, series: Series) -> Remark | None:
    points = _points(series, "eval/loss")
    if len(points) < 2:
        return None
    (best, lowest), (step, last) = min(points, key=lambda point: point[1]), points[-1]
    if last <= 1.05 * lowest or best == 0:
        return None
    return Remark(
        f"Test loss was lowest at step {best:g} ({number(lowest)}) and is {number(last)} at step {step:g}",
        "it may be learning by heart; an earlier adapter is kept only where it is better by more than chance explains",
        "Fewer epochs would do",
    )


# -- the reward model -------------------------------------------------------------------------------------------


def _few_votes(run: RunRow, series: Series) -> Remark | None:
    _, votes = _latest(series, "eval/votes")
    if not votes < FEW_VOTES:
        return None
    low, high = (_latest(series, f"eval/accuracy_{end}")[1] for end in ("low", "high"))
    return Remark(
        f"Judged by {votes:.0f} test votes, its accuracy lies anywhere from {low:.0%} to {high:.0%}",
        "that is too few to tell whether it is any good",
        "Rate more answers before you rely on it",
    )


def _guesses(run: RunRow, series: Series) -> Remark | None:
    _, votes = _latest(series, "eval/votes")
    step, right = _latest(series, "eval/accuracy")
    _, low = _latest(series, "eval/accuracy_low")
    if run.status != "done" or votes < FEW_VOTES or not low <= 0.5:
        return None
    return Remark(
        f"It is right about {right:.0%} of {votes:.0f} test votes at step {step:g} (95 % interval from {low:.0%})",
        "it may be guessing, which is right half of the time",
        "More votes help most",
    )


# -- PPO --------------------------------------------------------------------------------------------------------


def _start_differs(run: RunRow, series: Series) -> Remark | None:
    """Before its first update the policy is its reference: KL 0, and a ratio of 1 in the first update itself."""
    if run.settings.get("parent"):
        return None
    kl = next((y for x, y in _points(series, "objective/kl") if x == 1), 0.0)
    first_update = _value_only(run) + 1
    ratio = next((y for x, y in _points(series, "policy/ratio") if x == first_update), 1.0)
    single = run.settings.get("ppo_epochs", 1) * run.settings.get("mini_batches", 1) == 1
    do = "Use --compute fp32; if that does not help, the numbers of this run mean little"
    if abs(kl) > START_NATS:
        return Remark(f"KL is {figure(kl, '.2f')} nats at step 1", "before any update it should be 0", do)
    if single and abs(ratio - 1) > START_RATIO:
        return Remark(
            f"The probability ratio is {ratio:.3f} at step {first_update}", "in the first update it should be 1", do
        )
    return None


def _value_only(run: RunRow) -> int:
    """Count the first steps in which the policy rests, as `PPOSettings.value_only_steps` does."""
    return 0 if run.settings.get("critic") == "none" else int(run.settings.get("value_warmup_steps", 0))


def _kl_far(run: RunRow, series: Series) -> Remark | None:
    budget = run.settings.get("kl_budget", math.inf)
    step, kl = _latest(series, "objective/kl")
    seen = f"KL is {kl:.1f} nats an answer at step {step:g}"
    do = "Lower the learning rate or raise KL coef"
    if kl > budget:
        means = f"that is over the budget of {budget:g}, where the run ends; the best policy within it is kept"
        return Remark(seen, means, do)
    now = _course(series, "objective/kl")
    if now.above(FAR_NATS):
        return Remark(seen, "answers are far from the SFT model's, where the reward model is no judge any more", do)
    if now.above(0.8 * budget):
        return Remark(seen, f"the run ends at {budget:g}", do)
    if now.above(MOVED_NATS):
        means = "answers are clearly no longer the SFT model's"
        return Remark(seen, means, "Compare both by hand before you go further, or raise KL coef")
    return None


def _reward_falls(run: RunRow, series: Series) -> Remark | None:
    now, spread = _course(series, "objective/scores"), _course(series, "objective/scores_std").first
    if not now.below(now.first - 0.5 * spread):
        return None
    return Remark(
        f"Reward fell from {number(now.first)} in the first steps to {number(now.last)} at step {now.step:g}",
        "the policy collapses",
        "Lower the learning rate; the best policy so far is kept",
    )


def _reward_stays(run: RunRow, series: Series) -> Remark | None:
    now, spread = _course(series, "objective/scores"), _course(series, "objective/scores_std").first
    total, warm_up = run.settings.get("steps", math.inf), _value_only(run)
    if now.step < max(total / 2, warm_up + 4 * RECENT) or not abs(now.recent - now.first) < 0.1 * spread:
        return None
    return Remark(
        f"Reward is {number(now.last)} at step {now.step:g}, and was {number(now.first)} in the first steps",
        "the policy learns nothing from it",
        "Raise the learning rate, or lower KL coef",
    )


def _over_optimised(run: RunRow, series: Series) -> Remark | None:
    """Gao et al. (arXiv 2210.10760): past some √KL the reward model is being exploited; its worst answers show it."""
    best, worst = _course(series, "objective/scores"), _course(series, "objective/scores_min")
    kl, spread = _course(series, "objective/kl"), _course(series, "objective/scores_std").first
    if not (best.above(best.first + 0.25 * spread) and worst.below(worst.first - 0.5 * spread) and kl.recent > 1):
        return None
    return Remark(
        f"At step {best.step:g}, √KL {math.sqrt(max(0.0, kl.last)):.1f}, the mean reward is up from "
        f"{number(best.first)} to {number(best.last)}, the lowest down from {number(worst.first)} "
        f"to {number(worst.last)}",
        "the policy may be learning to fool the reward model",
        "Read the samples with the highest reward; raise KL coef, or rate more answers",
    )


def _peaked(run: RunRow, series: Series) -> Remark | None:
    points = _points(series, "eval/scores")
    spread = _course(series, "objective/scores_std").first
    if len(points) < RECENT:
        return None
    (best, highest), (step, last) = max(points, key=lambda point: point[1]), points[-1]
    kl = dict(series.get("eval/kl", ())).get(best, math.nan)
    if best == 0 or not last < highest - 0.25 * spread:
        return None
    return Remark(
        f"Held-out reward peaked at step {best:g} ({number(highest)}, √KL {math.sqrt(max(0.0, kl)):.1f}) "
        f"and is {number(last)} at step {step:g}",
        "beyond that the policy got worse",
        "The best policy is kept; fewer steps or a higher KL coef would do",
    )


def _longer(run: RunRow, series: Series) -> Remark | None:
    now = _course(series, "response/length")
    if not now.above(1.3 * now.first):
        return None
    return Remark(
        f"Answers have {now.last:.0f} tokens at step {now.step:g}, {now.last / now.first - 1:.0%} more than at first",
        "most of the gain may be length",
        "Read the samples: is longer better? If not, rate more short answers as better",
    )


def _alike(run: RunRow, series: Series) -> Remark | None:
    now = _course(series, "objective/entropy")
    if not now.below(0.5 * now.first):
        return None
    return Remark(
        f"Entropy is {number(now.last)} at step {now.step:g}, {now.last / now.first:.0%} of what it was",
        "the answers are becoming all alike",
        "Raise KL coef, or give it an entropy bonus (Entropy coef)",
    )


def _cut_off(run: RunRow, series: Series) -> Remark | None:
    now = _course(series, "response/eos_share")
    if not now.below(0.8):
        return None
    return Remark(
        f"Only {now.last:.0%} of the training answers came to an end by themselves at step {now.step:g}",
        "the others were cut off, and score low for it",
        "Allow longer ones (Max new tokens)",
    )


def _value_lost(run: RunRow, series: Series) -> Remark | None:
    now = _course(series, "val/explained_variance", after=_value_only(run) + RECENT)
    if not now.below(0.1):
        return None
    return Remark(
        f"The value explains {figure(max(now.last, -99), '.0%')} of what the rewards turn out to be at step "
        f"{now.step:g}",
        "its guesses do not help the policy",
        "Raise the value learning rate or give it more warm-up steps",
    )


def _clipped(run: RunRow, series: Series) -> Remark | None:
    now = _course(series, "policy/clipfrac")
    if not now.above(0.3):
        return None
    return Remark(
        f"{now.last:.0%} of the tokens are clipped at step {now.step:g}",
        "the steps are too long",
        "Lower the learning rate",
    )


def _too_fast(run: RunRow, series: Series) -> Remark | None:
    now = _course(series, "policy/approxkl")
    if not now.above(0.1) or _clipped(run, series):
        return None
    return Remark(
        f"A single update moves the policy by {number(now.last)} nats a token at step {now.step:g}",
        "healthy ones stay below 0.1; the learning rate is too high",
        "Lower the learning rate",
    )


RULES: dict[str, tuple[Rule, ...]] = {
    "sft": (_untrained_kept, _loss_goes_wrong, _heldout_rises),
    "reward": (_untrained_kept, _few_votes, _guesses, _loss_goes_wrong, _heldout_rises),
    "ppo": (
        *(_start_differs, _untrained_kept, _kl_far, _reward_falls, _reward_stays, _over_optimised, _peaked),
        *(_longer, _alike, _cut_off, _value_lost, _clipped, _too_fast),
    ),
}
"""Stage → its rules, the gravest first."""


def about_training(run: RunRow, series: Series) -> list[Remark]:
    """Apply the rules about the way a policy was trained, which its answers do not show."""
    rules = (_start_differs, _value_lost) if run.stage == "ppo" else ()
    return [remark for rule in rules if (remark := rule(run, series))]


def distance(kl: float, reference: str, near: float = MOVED_NATS, far: float = FAR_NATS) -> str:
    """Say how far a policy is from its reference, in words and in nats an answer."""
    called = "the base model" if reference == "base" else reference
    words = "still close to" if kl < near else "some way from" if kl < far else "far from"
    return f"{words} {called} (KL {figure(kl, '.1f')})"


def distance_of(run: RunRow, kl: float) -> str:
    """Say how far the policy of a run is from its reference, by the budget the run was given."""
    budget = float(run.settings.get("kl_budget", 20.0))
    return distance(kl, dict(run.parents.get("adapters", {})).get("sft", "base"), budget / 2, budget)


def outcome(run: RunRow) -> str:
    """Say what came out of a run, in one line."""
    result = run.result
    if run.status == "failed":
        return run.error
    if run.status == "interrupted":
        return f"It broke off: {run.error}" if run.error else "It broke off."
    if run.status != "done":
        return ""
    words: list[str] = []
    if "eval/accuracy" in result:
        low, high = result["eval/accuracy_low"], result["eval/accuracy_high"]
        few = ": too few votes to tell" if result["eval/votes"] < FEW_VOTES else ""
        words.append(
            f"agrees with {result['eval/accuracy']:.0%} of {result['eval/votes']:.0f} test votes "
            f"(95 % interval {low:.0%} to {high:.0%}{few})"
        )
    elif "eval/loss" in result:
        words.append(f"test loss {number(result['eval/loss'])}")
    if "eval/scores" in result:
        score = figure(result["eval/scores"], "+.2f")
        words.append(f"reward {score} on test prompts, {distance_of(run, result['eval/kl'])}")
    if result.get(BEST_STEP) == 0:
        words.append("as it was before training: no later step was better on test data")
    text = ", ".join(words) or f"made {run.adapter}"
    return text[0].upper() + text[1:]
