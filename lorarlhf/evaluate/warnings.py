"""When PPO on a reward model would be unwise, in words: what is seen, what it means, what to collect next. By rule.

A rule asks an interval, not a number: few votes look like anything, and an alarm that chance can raise is soon ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import fmean

from lorarlhf.evaluate.health import Drawn, Health
from lorarlhf.evaluate.statistics import Share, quantile, share_of
from lorarlhf.reading import FEW_VOTES, Remark

FEWEST = 10
"""Cases of a part (a rater, a criterion, a place) without which nothing is said about it."""
BARELY = 0.6
"""A model right less often than this passes on more mistakes than taste, even if it surely does better than chance."""
UNSTEADY = 0.8
"""Somebody who says the same again less often than this leaves a perfect model at 89 % or less."""
MUCH_LONGER = 0.1
"""So much more often than the person the model must take the longer answer before it matters."""
ONE_LENGTH = 0.75
"""Where the better answer is the longer one more often than this, length and quality cannot be told apart."""
BEYOND = 0.25
"""Share of a policy's answers that score higher than nearly all that were voted on: there nobody checked the score."""

Rule = Callable[[Health], Remark | None]


def warnings(health: Health) -> list[Remark]:
    """Apply the rules, the gravest first; none of them speaks against PPO where the list is empty."""
    return [remark for rule in RULES if (remark := rule(health))]


def percent(share: Share) -> str:
    """Write a share with its interval."""
    return f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"


# -- is it right ------------------------------------------------------------------------------------------------


def _nothing_new(health: Health) -> Remark | None:
    if health.accuracy:
        return None
    return Remark(
        "There is no vote on a prompt it never learned from",
        "nobody can tell whether it has learnt your taste or your votes by heart",
        "Rate answers to other prompts; a tenth of all prompts is kept apart for this",
    )


def _few_votes(health: Health) -> Remark | None:
    share = health.accuracy
    if not share or share.trials >= FEW_VOTES:
        return None
    return Remark(
        f"It is judged by {share.trials:.3g} votes it never learned from, which leaves its accuracy anywhere from "
        f"{share.low:.0%} to {share.high:.0%}",
        "that is too few to tell whether it is any good",
        f"Rate about {10 * math.ceil(FEW_VOTES - share.trials)} more answers, of which a tenth is kept apart",
    )


def _guesses(health: Health) -> Remark | None:
    share = health.accuracy
    if share.trials < FEW_VOTES or share.low > 0.5:
        return None
    return Remark(
        f"It is right about {percent(share)} of {share.trials:.0f} votes it never learned from",
        "it may be guessing, which is right half of the time, and PPO would chase its mistakes",
        "Rate more pairs whose difference you can name, with different prompts, then train it again",
    )


def _barely_right(health: Health) -> Remark | None:
    share = health.accuracy
    if share.trials < FEW_VOTES or share.low <= 0.5 or share.value >= BARELY:
        return None
    return Remark(
        f"It is right about only {percent(share)} of {share.trials:.0f} votes it never learned from",
        "it does better than chance, but a policy that follows it follows many mistakes",
        "Collect more votes before PPO, or keep KL coef high and look at the answers early",
    )


def _by_heart(health: Health) -> Remark | None:
    seen, new = health.learned, health.accuracy
    if new.trials < FEW_VOTES or seen.trials < FEW_VOTES or not (new.high < seen.low and seen.value - new.value > 0.15):
        return None
    return Remark(
        f"It is right about {percent(seen)} of the votes it learned from, and {percent(new)} of the others",
        "much of what it knows it knows by heart",
        "Train it for fewer epochs, and rate more prompts instead of more answers to the same ones",
    )


def _worse_lately(health: Health) -> Remark | None:
    rounds = [group.heldout for group in health.groups.get("round", ())]
    if len(rounds) < 2 or min(rounds[-1].trials, rounds[0].trials) < FEWEST:
        return None
    last, before = rounds[-1], max(rounds[:-1], key=lambda share: share.trials)
    if not last.high < before.low:
        return None
    return Remark(
        f"On answers of the newest policy it is right about {percent(last)} of the votes, earlier {percent(before)}",
        "the policy has moved to answers that it does not know",
        "Rate more answers of the newest policy, and train the reward model again before the next PPO",
    )


# -- what it goes by --------------------------------------------------------------------------------------------


def _likes_length(health: Health) -> Remark | None:
    found = health.length
    if not found or found.longer_of_differing.trials < FEWEST or found.longer_of_differing.low <= 0.5:
        return None
    if found.model.value - found.person.value < MUCH_LONGER:
        return None
    return Remark(
        f"It prefers the longer answer in {percent(found.model)} of the pairs, you in {percent(found.person)}",
        "it takes length for quality, and PPO would make the answers longer and longer",
        "Collect pairs in which the shorter answer is the better one, and strike padding out of answers under Edit",
    )


def _likes_brevity(health: Health) -> Remark | None:
    found = health.length
    if not found or found.longer_of_differing.trials < FEWEST or found.longer_of_differing.high >= 0.5:
        return None
    if found.person.value - found.model.value < MUCH_LONGER:
        return None
    return Remark(
        f"It prefers the shorter answer in {1 - found.model.value:.0%} of the pairs, you in "
        f"{1 - found.person.value:.0%}",
        "it takes brevity for quality, and PPO would make the answers shorter and shorter",
        "Collect pairs in which the longer answer is the better one",
    )


def _one_length(health: Health) -> Remark | None:
    found = health.length
    if not found or found.person.trials < FEW_VOTES or _likes_length(health):
        return None
    if found.person.low <= ONE_LENGTH:
        return None
    return Remark(
        f"In {percent(found.person)} of your votes the better answer is the longer one",
        "a model that only counts words would look as good as this one",
        "Collect pairs of about the same length, and some whose shorter answer is the better one",
    )


def _against_criterion(health: Health) -> Remark | None:
    for group in health.groups.get("criterion", ()):
        if group.heldout.trials >= FEWEST and group.heldout.high < 0.5:
            return Remark(
                f"It scores the answer higher that is better on “{group.name}” in only {percent(group.heldout)} of the "
                "votes",
                "what it rewards works against that criterion",
                f"Rate pairs that differ mostly in “{group.name}”, or decide whether it is to count",
            )
    return None


def _too_sure(health: Health) -> Remark | None:
    found, share = health.calibration, health.accuracy
    if not found or share.trials < FEW_VOTES or found.error <= found.by_chance or found.confidence <= share.high:
        return None
    if any(rule(health) for rule in (_guesses, _barely_right, _against_rater, _by_heart)):
        return None  # it is too sure because of that
    return Remark(
        f"On average it is {found.confidence:.0%} sure and right {percent(share)} of the time",
        "its scores lie further apart than they should, so that PPO takes its mistakes for great differences",
        "Train it for fewer epochs or with a smaller margin, or raise KL coef in PPO",
    )


# -- the votes --------------------------------------------------------------------------------------------------


def _against_rater(health: Health) -> Remark | None:
    """Also of votes it learned from: a model that contradicts what it was taught was taught the opposite by others."""
    groups = health.groups.get("rater", ())
    for group in groups:
        heldout = group.heldout.trials >= FEWEST and group.heldout.high < 0.5
        share = group.heldout if heldout else group.learned
        if share.trials < FEWEST or share.high >= 0.5:
            continue
        others = [(g.heldout if heldout else g.learned) for g in groups if g is not group]
        rest = fmean([o.value for o in others if o] or [math.nan])
        where = "" if heldout else ", though it learned from them"
        return Remark(
            f"It agrees with {percent(share)} of the votes of {group.name}{where}; with {rest:.0%} of the others'",
            f"{group.name} may have the keys swapped, or another taste than the others",
            f"Look at some votes of {group.name} under Data; take wrong ones out, or train on one person's votes alone",
        )
    return None


def _unsteady(health: Health) -> Remark | None:
    share = health.consistency
    if share.trials < FEWEST or share.high >= UNSTEADY:
        return None
    return Remark(
        f"Of pairs asked a second time you said the same in {percent(share)}",
        f"even a perfect model could be right about at most {health.ceiling[1]:.0%} of such votes",
        "Settle what counts before you go on, say tie where you hesitate, and rate fewer pairs at a time",
    )


def _one_sided(health: Health) -> Remark | None:
    share = health.position.left
    if share.trials < FEW_VOTES or share.low <= 0.5 <= share.high:
        return None
    side, value = ("left", share.value) if share.value > 0.5 else ("right", 1 - share.value)
    return Remark(
        f"You preferred the {side} answer in {value:.0%} of {share.trials:.0f} votes, which chance explains in "
        f"{_odds(health.position.chance)}",
        "sides are dealt at random, so some votes are about the place and not about the answer",
        "Read both answers before you decide, and say tie where neither is better",
    )


def _odds(chance: float) -> str:
    return "fewer than 1 of 1,000 cases" if chance < 0.001 else f"{max(1, round(1000 * chance))} of 1,000 cases"


# -- answers of today -------------------------------------------------------------------------------------------


def _base_preferred(health: Health) -> Remark | None:
    bare = next((d for d in health.drawn if not d.stage), None)
    sft = next((d for d in health.drawn if d.stage == "sft"), None)
    if not bare or not sft:
        return None
    better = _better(sft, bare)
    if better.trials < FEWEST or better.high >= 0.5:
        return None
    return Remark(
        f"It scores the answers of {sft.name} higher than the bare base's on only {percent(better)} of the prompts",
        "your votes and your demonstrations want different things",
        "Rate answers of the base against those of the SFT adapter, and look which of the two you mean",
    )


def _better(first: Drawn, second: Drawn) -> Share:
    """Tell on what share of the prompts the first one's answer scores higher."""
    return share_of(0.5 if a == b else float(a > b) for a, b in zip(first.scores, second.scores, strict=True))


def _beyond(health: Health) -> Remark | None:
    policies = [one for one in health.drawn if one.stage == "ppo" and len(one.scores) >= FEWEST]
    if not policies or len(health.voted) < FEW_VOTES:
        return None
    edge = quantile(health.voted, 0.99)
    above = share_of(float(score > edge) for score in policies[-1].scores)
    if above.low <= BEYOND:
        return None
    return Remark(
        f"{percent(above)} of the answers of {policies[-1].name} score higher than 99 % of all you voted on",
        "nobody has checked the score up there, and there it is most often wrong",
        f"Rate answers of {policies[-1].name}, and train the reward model again before PPO goes on",
    )


def _all_alike(health: Health) -> Remark | None:
    """PPO compares answers to one prompt: where all score alike there is nothing to learn."""
    start = next((d for d in health.drawn if d.stage == "sft"), None) or next(iter(health.drawn), None)
    if not start or len(start.scores) < FEWEST or len(health.voted) < FEW_VOTES:
        return None
    wide = quantile(health.voted, 0.9) - quantile(health.voted, 0.1)
    here = quantile(start.scores, 0.9) - quantile(start.scores, 0.1)
    if wide <= 0 or here >= 0.1 * wide:
        return None
    return Remark(
        f"Scores of fresh answers of {start.name or 'the bare base'} lie within {here:.2g}, of those you voted on "
        f"within {wide:.2g}",
        "it sees next to no difference between them, so PPO has nothing to go by",
        "Rate answers of that adapter, drawn with a higher temperature",
    )


RULES: tuple[Rule, ...] = (
    *(_nothing_new, _few_votes, _guesses, _barely_right, _against_rater, _likes_length, _likes_brevity, _one_length),
    *(_against_criterion, _worse_lately, _beyond, _base_preferred, _all_alike, _by_heart, _too_sure),
    *(_unsteady, _one_sided),
)
