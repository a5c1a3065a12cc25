"""What to do next, in words: from what was rated and trained so far to the one obvious step. Knows no Gradio.

A person goes round a loop: demonstrations → SFT → votes → reward model → PPO → votes on the new policy → …
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lorarlhf.data.cutting import FIRST_PASSES
from lorarlhf.data.practice import practice_counts
from lorarlhf.figures import duration
from lorarlhf.library import BARE, SavedAdapter
from lorarlhf.settings import PPOSettings
from lorarlhf.store import RunRow, Store
from lorarlhf.ui.readiness import FIRST_VOTES, FRESH_VOTES, Readiness, missing_votes

TESTED = 0.1
"""Share of the prompts kept apart to measure on, unless a setting says otherwise."""
FEWEST_DEMONSTRATIONS = 10
"""Fewer teach no manner of answering."""
FEWEST_HELDOUT = 10
"""Fewer held-out votes tell nothing about a reward model."""
BARELY_RIGHT = 0.55
"""A reward model right less often than this is no teacher."""

ROLES: dict[str, dict[str, str]] = {
    "sft": {"parent": ""},
    "reward": {"parent": "sft"},
    "ppo": {"sft": "sft", "reward": "reward", "parent": ""},
}
"""Stage → its setting that names an adapter → the stage whose newest one is meant by nothing; a test compares them
with the engine's, which this process must not import."""
FITTING: dict[tuple[str, str], tuple[str, ...]] = {
    ("sft", "parent"): ("sft", "ppo"),
    ("reward", "parent"): ("sft", "reward", "ppo"),
    ("ppo", "sft"): ("sft", "ppo"),
    ("ppo", "reward"): ("reward",),
    ("ppo", "parent"): ("sft", "ppo"),
}
"""Stage and setting → stages whose adapters can play that part."""


PRACTICE = {"imported": "imported", "typed": "typed", "votes": "voted on", "demonstrations": "demonstrated"}
"""Source of prompts to practise on → how its prompts are called."""


@dataclass(frozen=True)
class Standing:
    """What there is to train with."""

    demonstrations: int = 0
    votes: int = 0
    """Comparisons that are no skips, and rankings."""
    clear: int = 0
    """Those of them that prefer an answer."""
    practice: Mapping[str, int] = field(default_factory=dict)
    """Different prompts to practise on, by where they come from."""
    elsewhere: int = 0
    """Votes that belong to other bases."""
    adapters: Sequence[SavedAdapter] = ()
    """Those that fit the base, oldest first."""
    present: Sequence[SavedAdapter] | None = None
    """Those of them that led to the round that is on, or were made since; None for all."""
    base: bool = True
    """Whether a base is in memory."""
    at_work: str = ""
    """The run that is at work, or what else it is that does not let one start."""
    unfinished: RunRow | None = None
    """The newest run, if it can be gone on with."""
    tested: bool = False
    """Whether blind votes have decided about the newest policy."""
    sft_helps: bool = True
    """Whether imitating demonstrations changes anything: the starter was made from those that come with it."""
    looked: bool = True
    """Whether the person looked at the newest reward model, or does not want to."""

    def stamp(self) -> str:
        """Write what advice depends on; two equal ones give the same advice."""
        run = self.unfinished
        plain = replace(self, adapters=(), present=None, unfinished=None)
        return str((plain, self.names(), run and (run.id, run.status, run.step)))

    def names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Name all adapters, and those that are meant where nobody is named."""
        return tuple(a.name for a in self.adapters), tuple(a.name for a in self._present())

    def _present(self) -> Sequence[SavedAdapter]:
        return self.adapters if self.present is None else self.present

    def about(self) -> tuple[Any, ...]:
        """Tell what a stage's cost depends on: the adapters, and about how much data there is.

        Not every vote is worth counting everything anew.
        """
        counts = (self.votes, self.demonstrations, *self.practice.values())
        return self.names(), tuple(round(8 * math.log2(max(count, 32))) for count in counts)

    def in_time(self) -> Standing:
        """Imagine the turn of a queued stage: nothing else is at work, and what stages make is made, in this round."""
        made = SavedAdapter(Path("reward"), {"stage": "reward"})
        return replace(self, at_work="", adapters=[*self.adapters, made], present=[*self._present(), made])

    def newest(self, stage: str) -> SavedAdapter | None:
        """Give the newest adapter of a stage, in the round that is on."""
        return next((adapter for adapter in reversed(self._present()) if adapter.stage == stage), None)

    def fresh_votes(self) -> int:
        """Count the votes since the newest reward model."""
        reward = self.newest("reward")
        data = reward.card.get("data", {}) if reward else {}
        return max(0, self.votes - sum(len(data.get(kind, ())) for kind in ("comparisons", "rankings")))


def count(store: Store) -> dict[str, Any]:
    """Count what a `Standing` tells of the rows."""
    counts, outcomes = store.counts(), store.outcomes()
    kept = [row.value.outcome.value for row in store.kept_for_measuring()]
    for outcome in kept:
        outcomes[outcome] -= 1
    counts["comparisons"] -= len(kept)
    return {
        "demonstrations": counts["demonstrations"],
        "practice": practice_counts(store),
        "elsewhere": sum(store.elsewhere().get(kind, 0) for kind in ("comparisons", "rankings")),
        "votes": counts["comparisons"] - outcomes.get("skip", 0) + counts["rankings"],
        "clear": outcomes.get("a", 0) + outcomes.get("b", 0) + counts["rankings"],
    }


@dataclass(frozen=True)
class Step:
    """Something to do next."""

    text: str
    why: str = ""
    label: str = ""
    """Of the button that does it; empty where there is nothing to press."""
    do: str = ""
    """A stage, or `resume`, or the name of the tab where to go."""
    run: str = ""
    """The run to resume."""
    section: str = ""
    """Of the tab where to go."""


def next_step(now: Standing) -> Step:
    """Choose the one obvious step."""
    if not now.base:
        return Step("The base is not in memory yet", "Training can start as soon as it answers.")
    if now.at_work:
        return Step(now.at_work, "You can leave or reload this page; it goes on, and its charts stay.")
    if run := now.unfinished:
        how = "was stopped" if run.status == "paused" else "broke off"
        return Step(
            f"{run.called} {how} after step {run.step}", "It goes on where it stopped.", "Resume it", "resume", run.id
        )
    if now.sft_helps and now.newest("sft") is None and now.demonstrations >= FEWEST_DEMONSTRATIONS:
        why = "It gives the adapter that all later stages start from."
        return Step(f"You have {now.demonstrations:,} demonstrations: train SFT", why, "Train SFT", "sft")
    if now.newest("reward") is None:
        return _first_reward(now)
    return _next_round(now)


def _first_reward(now: Standing) -> Step:
    left = FIRST_VOTES - now.votes
    if left > 0:
        if not now.votes:
            text = f"No votes yet: rate {left} answers, then train a reward model"
            why = "" if now.demonstrations else "If you have answers worth imitating, import them under Data first."
            return Step(text, why, "Rate answers", "Rate")
        text = f"You have {_votes(now.votes)}: rate {left} more, then train a reward model"
        return Step(text, "With fewer it would guess.", "Rate answers", "Rate")
    why = "It learns which of two answers you like better, and judges in your place during PPO."
    return Step(f"You have {_votes(now.votes)}: train a reward model", why, "Train a reward model", "reward")


def _next_round(now: Standing) -> Step:
    reward, policy, fresh = now.newest("reward"), now.newest("ppo"), now.fresh_votes()
    assert reward is not None
    if fresh >= FRESH_VOTES:
        text = f"You have {_votes(now.votes)}, {fresh} of them new: train a new reward model"
        return Step(text, f"{reward.name} knows only the others.", "Train a reward model", "reward")
    metrics, more = reward.card.get("metrics", {}), FRESH_VOTES - fresh
    right = metrics.get("eval/accuracy", 1.0)
    if right < BARELY_RIGHT and metrics.get("eval/votes", FEWEST_HELDOUT) >= FEWEST_HELDOUT:
        text = f"{reward.name} agrees with only {right:.0%} of your test votes: rate {more} more answers"
        return Step(text, "PPO would chase its mistakes.", "Rate answers", "Rate")
    if policy is None or str(policy.card.get("created", "")) < str(reward.card.get("created", "")):
        if not now.looked:
            why = "PPO does whatever scores high. What the reward model likes, and what it got wrong, is under Judge."
            text = f"{reward.name} is ready. Check it before PPO"
            return Step(text, why, "Check it", "Judge", section="Reward model")
        return _first_try(now, reward)
    if now.tested:
        text = f"Rate {more} answers of {policy.name}, then train again"
        return Step(text, "Fresh votes on its own answers make the next round better.", "Rate answers", "Rate")
    text = f"{policy.name} is done. Is it better? Blind test it"
    why = f"Or rate {more} of its answers for the next round."
    return Step(text, why, "Blind test", "Judge", section="Blind comparison")


def _first_try(now: Standing, reward: SavedAdapter) -> Step:
    """Offer PPO, in words as sure as what is known of the reward model."""
    metrics = reward.card.get("metrics", {})
    tested, right = metrics.get("eval/votes", 0.0), metrics.get("eval/accuracy", 0.0)
    if tested >= FEWEST_HELDOUT:
        text = f"{reward.name} agrees with you in {right:.0%} of {tested:.0f} test votes. Train with PPO"
        why = "The model answers your prompts, and the reward model says how well it does."
        return Step(text, why, "Train with PPO", "ppo")
    known = f"it agrees with {right * tested:.0f} of {tested:.0f} test votes" if tested else "it has no test votes"
    ready = Readiness(max(now.votes, FIRST_VOTES))  # it is there: a first try at least
    more, name = ready.next
    rate = f"Rate {more + ready.votes - now.votes} more to make it {name}" if name else "Keep more votes apart"
    text = f"{reward.name} is {ready.level}: {known}, too few to say how good it is"
    return Step(text, f"{rate}, or try PPO now.", "Try PPO", "ppo")


def milestone(now: Standing) -> str:
    """Say how many votes are left to the next milestone; empty where it is reached."""
    return missing_votes(now.votes, now.fresh_votes() if now.newest("reward") else None)


def missing(stage: str, now: Standing) -> str:
    """Say what keeps a stage from starting and what to do; empty where nothing does."""
    if not now.base:
        return "The base is not in memory yet; wait for it, or load one under Models."
    if now.at_work:
        return f"{now.at_work}. Stop it or wait."
    if stage == "sft" and not now.demonstrations:
        return "No demonstrations yet: import some under Data, or write better answers while you rate."
    if stage == "reward" and not now.clear and now.elsewhere:
        there = f"{now.elsewhere:,} on others"
        return f"No votes on this base yet, but {there}: rate some pairs, or let those count too under Data."
    if stage == "reward" and not now.clear:
        return "No votes that prefer an answer yet: rate some pairs, or import comparisons under Data."
    if stage == "ppo" and now.newest("reward") is None:
        return "No reward model on this base yet: train one first."
    if stage == "ppo" and not any(now.practice.values()):
        return "No prompts to practise on yet: import some under Data."
    return ""


def work(settings: Mapping[str, Any]) -> float:
    """Say how much there is to do in a step: rows, and for PPO the tokens that each may be long."""
    return float((settings.get("batch_size") or 1) * (settings.get("max_new_tokens") or 1))


def practised(now: Standing, sources: Sequence[str]) -> str:
    """Say what a policy would practise on: the prompts of some sources, or those of demonstrations for want of them."""
    there = [f"{now.practice[name]:,} {PRACTICE[name]}" for name in sources if now.practice.get(name)]
    if not there and now.practice.get("demonstrations"):
        there = [f"{now.practice['demonstrations']:,} {PRACTICE['demonstrations']}"]
    return " and ".join(filter(None, [", ".join(there[:-1]), there[-1]])) + " prompts" if there else "no prompts yet"


def plan(stage: str, now: Standing, settings: Mapping[str, Any], pace: float | None, counted: int | None = None) -> str:
    """Say what a stage would learn from and how long it may take, at `pace` seconds a step and unit of `work`.

    `counted` are its steps, where the engine has counted them.
    """
    share = f"{TESTED:.0%} kept for testing"
    if stage == "ppo":
        learns = f"Trains on {practised(now, settings.get('practise_on') or PPOSettings().sources)}"
    else:
        rows = now.demonstrations if stage == "sft" else now.votes
        about = f"~{(1 - TESTED) * rows:,.0f} of {rows:,}" if rows >= 1 / TESTED else f"{rows:,}"
        learns = f"Learns from {about} {'demonstrations' if stage == 'sft' else 'votes'}"
        if stage == "reward" and milestone(now):
            share += f"; {milestone(now)}"
    if stage == "sft" and not now.sft_helps:
        share += ". The starter was made from such transcripts, rude ones too: SFT on its own changes little"
    steps = counted or steps_of(stage, now, settings)
    time = f", {duration(steps * pace * work(settings))} at the pace of the last run" if pace else ""
    return f"{learns}, {share}. About {steps:,} step{'s' * (steps != 1)}{time}."


def steps_of(stage: str, now: Standing, settings: Mapping[str, Any]) -> int:
    """Count about how many steps a stage would take."""
    if stage == "ppo":
        return max(1, math.ceil(settings.get("steps") or 0))
    rows = now.demonstrations if stage == "sft" else now.votes
    passes, batch = _passes(settings.get("epochs")), max(1, settings.get("batch_size") or 1)
    return max(1, math.ceil((1 - TESTED) * rows * passes / batch))


def _passes(typed: Any) -> float:
    """Read how many passes a form asks for; what is left to the program, or no number yet, counts as its first."""
    try:
        return float(typed)
    except (TypeError, ValueError):
        return FIRST_PASSES


def choices(stage: str, setting: str, now: Standing) -> list[tuple[str, str]]:
    """List (what to show, value) of the adapters that can play a part; the first stands for naming none."""
    wanted = ROLES[stage][setting]
    newest = now.newest(wanted) if wanted else None
    last = next((a for a in reversed(now.adapters) if a.stage == wanted), None)
    nothing = f"{'the newest' if newest is last else 'of this round'}: {newest.name}" if newest else "the base model"
    if (stage, setting) == ("ppo", "parent"):
        nothing = "the SFT adapter"
    if setting == "reward":
        nothing = nothing if newest else "none yet"
    named = [a.name for a in reversed(now.adapters) if a.stage in FITTING[stage, setting]]
    bare = [("the base model", BARE)] if newest and setting != "reward" else []
    return [(nothing, ""), *bare, *((name, name) for name in named)]


def _votes(number: int) -> str:
    return f"{number:,} vote{'s' * (number != 1)}"
