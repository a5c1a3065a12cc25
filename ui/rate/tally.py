"""How far the person has come, in numbers and in words. Reads rows; knows no Gradio."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any

from lorarlhf.figures import moment
from lorarlhf.library import SavedAdapter
from lorarlhf.store import Store
from lorarlhf.ui.rate.consistency import agreement
from lorarlhf.ui.readiness import milestone
from lorarlhf.ui.train.advice import Standing

PACE_MINUTES, PACE_VOTES, SHORTEST_MINUTES = 10, 30, 0.1
"""Votes per minute are those of the newest so many votes, none of them older than so many minutes."""

_VOTES = """(SELECT id, created, source FROM live_comparisons WHERE outcome != 'skip'
    UNION ALL SELECT id, created, source FROM live_rankings)"""


def progress(store: Store, rater: str, rewards: Sequence[SavedAdapter]) -> dict[str, Any]:
    """Count the votes of today and in all, the pace, and what comes next after the reward models there are."""
    total = store.query(f"SELECT count(*) FROM {_VOTES}")[0][0]
    fresh = Standing(votes=total, adapters=rewards).fresh_votes() if rewards else None
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    sql = f"SELECT count(*) FROM {_VOTES} WHERE source = 'app' AND created >= ?"
    return {
        "today": store.query(sql, (stamp(midnight),))[0][0],
        "total": total,
        "pace": pace(store),
        "next": milestone(total, fresh),
        "agreement": agreement(store, rater).words,
    }


def pace(store: Store) -> float | None:
    """Give the votes per minute of the last minutes; None where they are too few to tell."""
    since = stamp(datetime.now(timezone.utc) - timedelta(minutes=PACE_MINUTES))
    sql = f"SELECT created FROM {_VOTES} WHERE source = 'app' AND created >= ? ORDER BY created DESC LIMIT ?"
    times = [moment(row["created"]) for row in store.query(sql, (since, PACE_VOTES))]
    if len(times) < 3:
        return None
    minutes = (times[0] - times[-1]).total_seconds() / 60
    return round((len(times) - 1) / minutes, 1) if minutes > SHORTEST_MINUTES else None


def stamp(when: datetime) -> str:
    """Write a time as rows have it, so that they compare as text."""
    return when.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
