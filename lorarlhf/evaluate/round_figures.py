"""What each round came to: votes, its reward model on the votes of the next round, its policy in blind votes, drift."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lorarlhf.algo.intervals import wilson_interval
from lorarlhf.checkpoints import list_checkpoints
from lorarlhf.evaluate.as_json import as_json
from lorarlhf.evaluate.drift import drift_of
from lorarlhf.evaluate.duels import PEOPLE, Result, result_of
from lorarlhf.evaluate.health import judge_of
from lorarlhf.evaluate.lineage import BlindVotes, best_by_votes
from lorarlhf.evaluate.rounds import Course, Round, by_round, course_now
from lorarlhf.evaluate.statistics import Share, share_of
from lorarlhf.evaluate.votes import ScoredPair, learned_of, rows_and_pairs, scored_pairs
from lorarlhf.library import BARE, SavedAdapter, list_saved
from lorarlhf.store import DuelVote, Row, Store
from lorarlhf.types import Outcome, prompt_key
from lorarlhf.workspace import Workspace

NOTHING = Share(0.0, 0.0, 0.0, 1.0)
SCRIPT = "script"
"""Source of votes that no person cast."""


@dataclass(frozen=True)
class Drifted:
    """How far a policy went."""

    kl: float
    """Nats an answer, away from its reference."""
    low: float
    """95 % interval; NaN where only its run tells of it."""
    high: float
    reward: float
    """Mean score of its answers; NaN where it is not known."""
    length: float
    """Mean length of its answers in tokens."""
    measured: bool
    """By `judge policy`; else by its run on held-out prompts."""


@dataclass(frozen=True)
class Figures:
    """One round in numbers."""

    key: str
    number: int
    name: str
    """Who answered."""
    on: bool
    """Whether it is the round that is on."""
    led: bool
    """Whether it is on the way to that one."""
    votes: int
    """Of people, skips left out."""
    imported: int
    """Those of them that came without a word on who wrote the answers, as from a file."""
    scripted: int
    """Votes of the scripted rater, which are none of these; skips left out."""
    reward: str
    heldout: Share
    """How often the reward model was right about the votes of its training that were kept apart."""
    next: Share
    """How often it is right about pairs of the next round, which it never learned from."""
    unscored: int
    """Pairs of the next round that it has not scored yet."""
    policy: str
    wins: Result | None
    """Blind votes of people on the policy against the adapter that answered in this round."""
    drift: Drifted | None
    wrote: tuple[str, ...] = ()
    """Who wrote the answers that were voted on, most often first; empty where nobody is known to have."""


@dataclass(frozen=True)
class Rounds:
    """All rounds on one base."""

    course: Course
    rows: tuple[Figures, ...]
    """In the order the rounds began."""
    best: BlindVotes | None = None
    """The policy to keep, by blind votes, or the checkpoint; None where none surely beats `against`."""
    against: str = ""
    """The one opponent all policies are compared by; empty where nobody was compared blind."""

    @property
    def now(self) -> Figures:
        """The round that is on."""
        return next(row for row in self.rows if row.on)

    def as_json(self) -> dict[str, Any]:
        """Give it as JSON; what is not known is null."""
        best = {"adapter": self.best.adapter, "wins": as_json(self.best.wins)} if self.best else None
        return {"rounds": [_row_json(row) for row in self.rows], "best": best, "against": self.against or None}


def rounds_of(
    store: Store,
    adapters: Sequence[SavedAdapter],
    base: str,
    foreign: frozenset[str] = frozenset(),
    checkpoints: Sequence[SavedAdapter] = (),
) -> Rounds:
    """Compute all figures of the rounds on a base, from what is stored.

    `adapters` and `checkpoints` are those on it, oldest first; `foreign` are the hashes of those on other bases, and of
    these.
    """
    course = course_now(store, adapters, base)
    rows: list[Row[Any]] = [*store.comparisons(), *store.rankings()]
    said = [row for row in rows if row.value.origin.source != SCRIPT and _says(row)]
    homes = by_round(said, course, foreign)
    votes = Counter(homes.values())
    by_script = [row for row in rows if row.value.origin.source == SCRIPT and _says(row)]
    scripted = Counter(by_round(by_script, course, foreign).values())
    unsigned = [(row.kind, row.id) for row in said if not any(row.value.origin.adapter_hashes)]
    alone = Counter(homes[row] for row in unsigned if row in homes)
    blind, back = [vote for vote in store.duel_votes() if vote.judge == PEOPLE], store.taken_back()
    led = {one.key for one in course.path()}
    names = {base: BARE} | {saved.hash: saved.name for saved in adapters}
    found = []
    for one in course.rounds.values():
        reward, policy = course.reward(one), course.policy(one)
        tested, unscored = NOTHING, 0
        if reward and policy and votes[policy.hash]:
            tested, unscored = on_next(store, reward, {row for row, key in homes.items() if key == policy.hash})
        found.append(
            Figures(
                key=one.key,
                number=one.number,
                name=one.name,
                on=one.key == course.now.key,
                led=one.key in led,
                votes=votes[one.key],
                imported=alone[one.key],
                scripted=scripted[one.key],
                reward=reward.name if reward else "",
                heldout=_heldout(reward) if reward else NOTHING,
                next=tested,
                unscored=unscored,
                policy=policy.name if policy else "",
                wins=result_of(blind, policy.hash, one.hash, taken_back=back) if policy else None,
                drift=_drifted(store, policy) if policy else None,
                wrote=_wrote((row for row in said if homes.get((row.kind, row.id)) == one.key), names),
            )
        )
    best, against = keep_best(blind, course, checkpoints)
    return Rounds(course, tuple(found), best, against)


def _wrote(rows: Iterable[Row[Any]], names: dict[str, str]) -> tuple[str, ...]:
    """Name the adapters here that wrote what was voted on, most often first."""
    counted = Counter(names[hash] for row in rows for hash in row.value.origin.adapter_hashes if hash in names)
    return tuple(name for name, _ in counted.most_common())


def _says(row: Row[Any]) -> bool:
    return getattr(row.value, "outcome", None) is not Outcome.SKIP


# -- the reward model -------------------------------------------------------------------------------------------


def _heldout(reward: SavedAdapter) -> Share:
    metrics = reward.card.get("metrics", {})
    votes, right = float(metrics.get("eval/votes", 0.0)), float(metrics.get("eval/accuracy", math.nan))
    if not votes or math.isnan(right):
        return NOTHING
    return Share(right * votes, votes, *wilson_interval(right * votes, votes))


def on_next(store: Store, reward: SavedAdapter, rows: set[tuple[str, int]]) -> tuple[Share, int]:
    """Test a reward model on votes cast since: on those of these rows that it never learned from → and the unscored.

    Its prompts may have come up before, the pairs have not: they are other answers.
    """
    learned = learned_of(store, reward)
    scored, _ = scored_pairs(store, judge_of(reward), learned)
    before = {_pair_key(one) for one in scored if not one.since}
    fresh = [one for one in scored if one.since and (one.kind, one.row) in rows and not one.pair.tie]
    new = [one for one in fresh if _pair_key(one) not in before]
    wanted = sum(
        (row.kind, row.id) in rows and (row.kind, row.id) not in learned.rows and not pair.tie
        for row, pair in rows_and_pairs(store)
    )
    share = share_of([one.right for one in new], [one.pair.weight for one in new], [one.key for one in new])
    return share, wanted - len(fresh)


def _pair_key(one: ScoredPair) -> tuple[str, frozenset[str]]:
    return prompt_key(one.pair.prompt), frozenset((one.pair.chosen, one.pair.rejected))


# -- the policy -------------------------------------------------------------------------------------------------


def _drifted(store: Store, policy: SavedAdapter) -> Drifted | None:
    if found := drift_of(store, policy):
        reward = found.reward_gain.after if found.reward_gain else math.nan
        return Drifted(found.kl.value, found.kl.low, found.kl.high, reward, found.length.after, True)
    metrics = policy.card.get("metrics", {})
    kl, reward, length = (float(metrics.get(f"eval/{name}", math.nan)) for name in ("kl", "scores", "length"))
    return Drifted(kl, math.nan, math.nan, reward, length, False) if math.isfinite(kl) else None


def keep_best(
    blind: Sequence[DuelVote], course: Course, checkpoints: Sequence[SavedAdapter] = ()
) -> tuple[BlindVotes | None, str]:
    """Name the policy to keep by people's blind votes, or the checkpoint of one → it, and what all are compared by.

    That is the one most of them met; of equals the oldest.
    """
    policies = [one.answers for one in list(course.rounds.values())[1:] if one.answers]
    policies += [one for one in checkpoints if one.stage == "ppo" and one.hash not in course.known]
    first = next(iter(course.rounds.values()))
    names = {first.key: BARE, first.hash: first.name} | {one.hash: one.name for one in policies}
    met = Counter(hash for one in policies for hash in _opponents(blind, one.hash) if hash in names)
    if not met:
        return None, ""
    against = max(names, key=lambda hash: met[hash])  # of equals the first, which is the oldest
    lineage = [
        BlindVotes(one.name, _always(result_of(blind, one.hash, against))) for one in policies if one.hash != against
    ]
    best = best_by_votes(lineage)
    return next((one for one in lineage if one.adapter == best), None), names[against]


def _always(result: Result) -> Share:
    """Give a win rate the interval that holds however often people look, as everywhere else on a page of rounds."""
    low, high = result.always
    return replace(result.share, low=low, high=high)


def _opponents(blind: Sequence[DuelVote], hash: str) -> set[str]:
    both = [{vote.first, vote.second} for vote in blind if vote.outcome is not Outcome.SKIP]
    return set[str]().union(*(pair - {hash} for pair in both if hash in pair))


# -- as JSON ----------------------------------------------------------------------------------------------------


def _row_json(row: Figures) -> dict[str, Any]:
    shown = {name: as_json(value) for name, value in vars(row).items() if name not in ("key", "name", "wins")}
    wins = row.wins.figures() if row.wins and row.wins.votes else None
    for share in ("heldout", "next"):
        shown[share] = shown[share] if getattr(row, share) else None
    return {"answers": row.name, **shown, "wins": wins}


def on_every_base(store: Store, place: Workspace) -> dict[str, Rounds]:
    """Compute the rounds on every base that adapters were made on, by its fingerprint, that of the newest last."""
    saved, checkpoints = list_saved(place.adapters_dir), list_checkpoints(place)
    bases = list(dict.fromkeys(one.card["base"]["fingerprint"] for one in reversed(saved)))[::-1]
    return {base: rounds_on(store, saved, base, checkpoints) for base in bases or [BARE]}


def rounds_on(
    store: Store, saved: Sequence[SavedAdapter], base: str, checkpoints: Sequence[SavedAdapter] = ()
) -> Rounds:
    """Compute the rounds on a base, given the adapters and checkpoints on all of them, oldest first."""
    on = {one.hash: one.card["base"]["fingerprint"] for one in saved}
    foreign = {hash for hash, other in on.items() if other != base} | {*on.values()}
    here = [one for one in saved if on[one.hash] == base]
    steps = [one for one in checkpoints if one.card["base"]["fingerprint"] == base]
    return rounds_of(store, here, base, frozenset(foreign - {base}), steps)


def round_of(found: Rounds, name: str) -> Round | None:
    """Find the round in which an adapter of that name answers."""
    return next((one for one in found.course.rounds.values() if one.name == name), None)
