"""When a policy has drifted or fools its reward model, in words: what is seen, what it means, what to do. By rule.

A rule asks an interval, not a number, so that few prompts raise no alarm; the bounds are those of the field (a third
longer, half the entropy, four of five answers ended, 10 and 30 nats).
"""

from __future__ import annotations

from collections.abc import Callable

from lorarlhf.evaluate.drift import Change, Drift
from lorarlhf.figures import number
from lorarlhf.reading import FAR_NATS, MOVED_NATS, Remark

FEWEST = 10
"""Prompts without which only the run itself is spoken about."""
LONGER, SHORTER = 1.3, 0.6
"""Length of the answers, before = 1."""
PEAKED = 0.5
"""Entropy, before = 1."""
ENDED = 0.8
"""Share of the answers that end by themselves."""
REPEATED = 0.1
"""Rise of the share of repeated 4-grams; texts of people have a few percent of them."""
DOUBTED = 1.5
"""Disagreement of the heads, before = 1."""
FORGOTTEN = 1.25
"""Perplexity of the fixed text, before = 1."""
FOREIGN = 1000.0
"""Perplexity from which on the reference knows nothing of such texts that could be forgotten."""
SURE = 0.05
"""Probability below which a change of answers to the fixed questions is taken to be none of chance."""

Rule = Callable[[Drift], Remark | None]


def alarms(drift: Drift) -> list[Remark]:
    """Apply the rules, the gravest first; nothing is wrong where the list is empty."""
    found = [remark for rule in RULES if (remark := rule(drift))] if drift.prompts >= FEWEST else []
    return [*found, *drift.from_run]


def surely_above(one: Change, bound: float, none: float = 1.0) -> bool:
    """Tell whether a change is beyond a bound, and surely more than none."""
    return one.change.value > bound and one.change.above(none)


def surely_below(one: Change, bound: float, none: float = 1.0) -> bool:
    """Tell whether a change is beyond a bound downwards, and surely more than none."""
    return one.change.value < bound and one.change.below(none)


# -- is the reward real -----------------------------------------------------------------------------------------


def _fooled(drift: Drift) -> Remark | None:
    """The true reward falls while the proxy's rises (Gao et al., arXiv 2210.10760); here an ensemble sees it."""
    proxy, least = drift.reward_gain, drift.least_gain
    if not proxy or not least or not proxy.change.above(0) or not least.change.below(0):
        return None
    return Remark(
        f"The reward rose by {number(proxy.change.value)} at √KL {drift.root_kl:.1f}, while the least of {drift.heads} "
        f"heads fitted to your votes fell by {number(-least.change.value)}",
        "the policy has learnt to fool the reward model",
        "Read the answers below; go back to an earlier policy, raise KL coef, or rate answers of this one and train "
        "the reward model again",
    )


def _worse(drift: Drift) -> Remark | None:
    proxy = drift.reward_gain
    if not proxy or not proxy.change.below(0):
        return None
    return Remark(
        f"The reward fell by {number(-proxy.change.value)} ({number(proxy.before)} to {number(proxy.after)})",
        "the policy is worse than its reference even by the measure it was trained on",
        "Keep the reference, or train again at a lower learning rate",
    )


def _doubtful(drift: Drift) -> Remark | None:
    one = drift.disagreement
    if not one or not surely_above(one, DOUBTED):
        return None
    return Remark(
        f"The {drift.heads} heads fitted to your votes disagree {one.change.value:.1f} times as much about its answers "
        "as about those of its reference",
        "your votes say little about such answers, so that the reward model guesses",
        "Rate answers of this policy, and train the reward model again before PPO goes on",
    )


def _far(drift: Drift) -> Remark | None:
    if not drift.kl.above(MOVED_NATS):
        return None
    seen = f"KL is {drift.kl.value:.1f} nats an answer ({drift.kl.low:.1f} to {drift.kl.high:.1f})"
    if drift.kl.above(FAR_NATS):
        means = "its answers are far from those of its reference, where the reward model is no judge any more"
        return Remark(seen, means, "Go back to an earlier policy, or train again with a higher KL coef")
    means = "its answers are clearly no longer those of its reference"
    return Remark(seen, means, "Compare both by hand before you go further, or raise KL coef")


# -- what the answers are like ----------------------------------------------------------------------------------


def _longer(drift: Drift) -> Remark | None:
    one = drift.length
    if not surely_above(one, LONGER):
        return None
    gained = " and the reward rose with it" if drift.reward_gain and drift.reward_gain.change.above(0) else ""
    return Remark(
        f"Answers have {one.after:.0f} tokens, {one.change.value - 1:.0%} more than before ({one.before:.0f}){gained}",
        "most of what was gained may be length",
        "Read the answers below: is longer better? If not, rate pairs whose shorter answer is the better one",
    )


def _shorter(drift: Drift) -> Remark | None:
    one = drift.length
    if not surely_below(one, SHORTER):
        return None
    return Remark(
        f"Answers have {one.after:.0f} tokens, {1 - one.change.value:.0%} fewer than before ({one.before:.0f})",
        "the policy may be leaving out what answers are for",
        "Read the answers below: is shorter better? If not, rate pairs whose longer answer is the better one",
    )


def _repeats(drift: Drift) -> Remark | None:
    one = drift.repeated
    if not surely_above(one, REPEATED, none=0.0):
        return None
    return Remark(
        f"{one.after:.0%} of an answer's runs of four tokens stood in it before, {one.before:.0%} in its reference's",
        "the policy says the same again and again",
        "Go back to an earlier policy, raise KL coef, or rate such answers as the worse ones",
    )


def _alike(drift: Drift) -> Remark | None:
    one = drift.entropy
    if not surely_below(one, PEAKED):
        return None
    return Remark(
        f"Entropy is {number(one.after)} nats a token, {one.change.value:.0%} of what it was ({number(one.before)})",
        "the answers are becoming all alike",
        "Raise KL coef, or give it an entropy bonus (Entropy coef)",
    )


def _cut_off(drift: Drift) -> Remark | None:
    before, after = drift.ended
    if after.high >= ENDED and not (after.value < ENDED and after.high < before.low):
        return None
    as_before = "" if after.high < before.low else ", hardly fewer than before"
    return Remark(
        f"Only {after.value:.0%} of the answers come to an end by themselves ({before.value:.0%} before{as_before})",
        "the others ramble on until they are cut off",
        "Allow longer ones (Max new tokens) if they are worth reading, else lower Missing EOS score",
    )


# -- what it forgot ---------------------------------------------------------------------------------------------


def _forgets(drift: Drift) -> Remark | None:
    one = drift.perplexity
    if not surely_above(one, FORGOTTEN) or one.before > FOREIGN:
        return None
    return Remark(
        f"Perplexity of a plain text is {number(one.after)}, {number(one.before)} before",
        "the policy forgets the language its reference had",
        "Lower the learning rate, train fewer steps, or raise KL coef",
    )


def _knows_less(drift: Drift) -> Remark | None:
    one = drift.known
    if one.lost <= one.won or one.chance >= SURE:
        return None
    return Remark(
        f"It knows {one.after} of {one.questions} easy questions, its reference {one.before}",
        "it has forgotten things that nobody asked it to forget",
        "Lower the learning rate, train fewer steps, or raise KL coef",
    )


RULES: tuple[Rule, ...] = (
    *(_fooled, _worse, _doubtful, _far),
    *(_longer, _shorter, _repeats, _alike, _cut_off),
    *(_forgets, _knows_less),
)
