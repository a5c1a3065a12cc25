"""How far the person has come, in numbers and in words. Reads rows; knows no Gradio."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from lorarlhf.store import Store
from lorarlhf.ui.rate.consistency import agreement

MILESTONES = (
    (50, "a first reward model is worth training"),
    (200, "training the reward model again is worth it"),
    # The README's figures of the starter base come from 400 votes.
    (400, "you have as many votes as the README's measurements"),
)
PACE_MINUTES, PACE_VOTES, SHORTEST_MINUTES = 10, 30, 0.1
"""Votes per minute are those of the newest so many votes, none of them older than so many minutes."""

_VOTES = """(SELECT id, created, source FROM live_comparisons WHERE outcome != 'skip'
    UNION ALL SELECT id, created, source FROM live_rankings)"""


def progress(store: Store, rater: str) -> dict[str, Any]:
    """Count the votes of today and in all, the pace, and what comes next."""
    total = store.query(f"SELECT count(*) FROM {_VOTES}")[0][0]
    midnight = datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0)
    sql = f"SELECT count(*) FROM {_VOTES} WHERE source = 'app' AND created >= ?"
    return {
        "today": store.query(sql, (stamp(midnight),))[0][0],
        "total": total,
        "pace": pace(store),
        "next": milestone(total),
        "agreement": agreement(store, rater).words,
    }


def milestone(votes: int) -> str:
    """Say what the next votes are good for."""
    for goal, words in MILESTONES:
        if votes < goal:
            return f"{goal - votes} more before {words}"
    goal = MILESTONES[-1][0]
    while goal <= votes:
        goal *= 2
    return f"{goal - votes} more before you have {goal}: each doubling makes the reward model better"


def pace(store: Store) -> float | None:
    """Give the votes per minute of the last minutes; None where they are too few to tell."""
    since = stamp(datetime.now(timezone.utc) - timedelta(minutes=PACE_MINUTES))
    sql = f"SELECT created FROM {_VOTES} WHERE source = 'app' AND created >= ? ORDER BY created DESC LIMIT ?"
    times = [
        datetime.fromisoformat(row["created"].replace("Z", "+00:00")) for row in store.query(sql, (since, PACE_VOTES))
    ]
    if len(times) < 3:
        return None
    minutes = (times[0] - times[-1]).total_seconds() / 60
    return round((len(times) - 1) / minutes, 1) if minutes > SHORTEST_MINUTES else None


def stamp(when: datetime) -> str:
    """Write a time as rows have it, so that they compare as text."""
    return when.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
