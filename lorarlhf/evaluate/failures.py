"""Where a policy does worst, so that people rate it there first: prompts alone, to which fresh answers are drawn."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from itertools import zip_longest
from statistics import pstdev
from typing import Any, NamedTuple

from lorarlhf.evaluate.drift import drift_key
from lorarlhf.evaluate.health import drawn_key, judge_of
from lorarlhf.evaluate.rounds import START, when
from lorarlhf.evaluate.votes import learned_of, scored_pairs
from lorarlhf.library import SavedAdapter
from lorarlhf.store import Store
from lorarlhf.types import Prompt, prompt_key

DISLIKED = "chat answers disliked"
"""Name in the workspace of the thumbs-down from chats: [time, prompt, answer, adapter], oldest first."""
MOST_DISLIKED, MOST_PAIRS = 500, 40
WORST = 0.25
"""Share of a policy's answers that counts as its worst."""
RULE = "in turn the lowest scores, the largest disagreements and thumbs-down from chats; each once, with fresh answers"


class Failure(NamedTuple):
    """A prompt to rate first."""

    prompt: Prompt
    why: str
    """`low`, `disagreement` or `disliked`."""
    value: float
    """The score; by how much it disagrees; 0."""


class _Seen(NamedTuple):
    """A failure, and since when it is known: a later vote on its prompt settles it."""

    failure: Failure
    since: datetime


def failures(store: Store, answers: SavedAdapter | None, reward: SavedAdapter | None) -> list[Failure]:
    """List the prompts that nobody rated since they were seen to go wrong; the three kinds take turns.

    First the answer of the worst quarter that scored lowest; then the vote that the reward model contradicts most, and
    after all such votes the answer whose scores by an ensemble lie furthest apart; then the newest thumbs-down.
    `answers` is who answers now, `reward` the reward model that is meant where nobody names one. Scores and an
    ensemble's spread come from what was measured of both; without it there are none.
    """
    settled = _voted_at(store)
    kinds = [list(_low(store, answers, reward)), list(_disagreements(store, answers, reward)), list(_disliked(store))]
    found: dict[str, Failure] = {}
    for turn in zip_longest(*([one for one in kind if _open(one, settled)] for kind in kinds)):
        for one in filter(None, turn):
            found.setdefault(prompt_key(one.failure.prompt), one.failure)
    return list(found.values())


def dislike(store: Store, prompt: Prompt, answer: str, adapter: str) -> None:
    """Note that an answer in a chat was bad; on disk when this returns."""
    now = datetime.now(timezone.utc).isoformat()
    with store.transaction():
        store.set_meta(DISLIKED, [*store.get_meta(DISLIKED, []), [now, prompt, answer, adapter]][-MOST_DISLIKED:])


def stamp(store: Store, answers: SavedAdapter | None, reward: SavedAdapter | None) -> str:
    """Write what `failures` depends on, but for the votes."""
    sql = """SELECT (SELECT count(*) FROM scores WHERE judge = ?),
        (SELECT max(rowid) FROM meta WHERE key IN (?, ?, ?))"""
    keys = (reward and judge_of(reward), DISLIKED, answers and drift_key(answers), reward and drawn_key(reward))
    return f"{answers and answers.hash} {reward and judge_of(reward)} {tuple(store.query(sql, keys)[0])}"


def _open(one: _Seen, settled: dict[str, datetime]) -> bool:
    return settled.get(prompt_key(one.failure.prompt), START) <= one.since


def _voted_at(store: Store) -> dict[str, datetime]:
    """Tell when each prompt was voted on last."""
    sql = """SELECT prompt, max(created) AS at FROM (SELECT prompt, created FROM live_comparisons
        UNION ALL SELECT prompt, created FROM live_rankings) GROUP BY prompt"""
    return {row["prompt"]: when(row["at"]) for row in store.query(sql)}


# -- each kind --------------------------------------------------------------------------------------------------


def _low(store: Store, answers: SavedAdapter | None, reward: SavedAdapter | None) -> Iterator[_Seen]:
    """Give the prompts whose answers scored lowest, the lowest first."""
    if answers is None or reward is None:
        return
    scores: dict[str, float] = {}
    drawn = store.get_meta(drawn_key(reward), {})
    hashes, keys = drawn.get("with", {}).get("hashes", []), drawn.get("with", {}).get("prompts", [])
    if answers.hash in hashes:
        scores = dict(zip(keys, drawn["answers"][hashes.index(answers.hash)]["scores"], strict=True))
    for key, answer in _measured(store, answers, reward):
        if answer["score"] is not None:
            scores[key] = min(answer["score"], scores.get(key, math.inf))
    for key, prompt in _worst(store, {key: -score for key, score in scores.items()}):
        yield _Seen(Failure(prompt, "low", scores[key]), when(answers.card.get("created")))


def _disagreements(store: Store, answers: SavedAdapter | None, reward: SavedAdapter | None) -> Iterator[_Seen]:
    """Give the prompts of votes that the reward model contradicts, then those an ensemble is least sure of."""
    if reward is None:
        return
    pairs = scored_pairs(store, judge_of(reward), learned_of(store, reward))[0]
    wrong = sorted((one for one in pairs if one.gap < 0 and not one.pair.tie), key=lambda one: one.gap)[:MOST_PAIRS]
    cast = {
        kind: {row.id: row.created for row in store.some(kind, [o.row for o in wrong if o.kind == kind])}
        for kind in ("comparisons", "rankings")
    }
    for one in wrong:
        yield _Seen(Failure(one.pair.prompt, "disagreement", -one.gap), when(cast[one.kind][one.row]))
    if answers is None:
        return
    spread = {key: pstdev(one["heads"]) for key, one in _measured(store, answers, reward) if len(one["heads"]) > 1}
    for key, prompt in _worst(store, spread):
        yield _Seen(Failure(prompt, "disagreement", spread[key]), when(answers.card.get("created")))


def _disliked(store: Store) -> Iterator[_Seen]:
    for at, prompt, _, _ in reversed(store.get_meta(DISLIKED, [])):
        yield _Seen(Failure(tuple(prompt), "disliked", 0.0), when(at))


def _measured(store: Store, answers: SavedAdapter, reward: SavedAdapter) -> Sequence[tuple[str, dict[str, Any]]]:
    """Give the answers that `judge policy` drew of a policy, by prompt, if this reward model scored them."""
    kept = store.get_meta(drift_key(answers), {})
    if kept.get("with", {}).get("reward") != judge_of(reward):
        return ()
    return list(zip(kept["with"]["prompts"], kept["after"], strict=True))


def _worst(store: Store, badness: dict[str, float]) -> Iterator[tuple[str, Prompt]]:
    """Give the worst quarter, the worst first, of those whose prompts are known."""
    order = sorted(badness, key=lambda key: -badness[key])[: math.ceil(WORST * len(badness))]
    known = store.conversations(order)
    return ((key, known[key]) for key in order if key in known)
