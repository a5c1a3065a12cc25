"""Which prompts a policy practises on: what was imported, typed, voted on, or answered by demonstrations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lorarlhf.settings import PRACTICE_SOURCES
from lorarlhf.store import Row, Store
from lorarlhf.store.codec import prompt_of
from lorarlhf.types import Prompt, prompt_key

TYPED = "typed"
"""List of the workspace's prompts that keeps what the person typed."""
Rows = dict[str, list[Row[Any]]]


def practice_rows(store: Store, sources: Sequence[str]) -> Rows:
    """List the rows whose prompts a policy practises on, by kind: the union of some sources.

    Where those hold no prompt, it practises on those of demonstrations.
    """
    prompts = store.prompts()
    found: Rows = {
        "prompts": [row for row in prompts if ("typed" if row.queue == TYPED else "imported") in sources],
        "comparisons": store.lessons("ppo") if "votes" in sources else [],
        "rankings": list(store.rankings()) if "votes" in sources else [],
        "demonstrations": [],
    }
    if "demonstrations" in sources or not any(found.values()):
        found["demonstrations"] = list(store.demonstrations())
    return found


def prompts_in(rows: Rows) -> list[Prompt]:
    """List the prompts of rows, each once."""
    return unique(prompt_of(row.value) for kind in rows for row in rows[kind])


def unique(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Keep each prompt once, in the order they come."""
    return list({prompt_key(prompt): prompt for prompt in prompts}.values())


def practice_counts(store: Store) -> dict[str, int]:
    """Count the different prompts of each source, without reading a row: pages ask for it after every vote."""
    rows = store.query(_COUNTS, (TYPED, TYPED))[0]
    return {source: int(rows[source]) for source in PRACTICE_SOURCES}


_COUNTS = """SELECT
    (SELECT count(DISTINCT prompt) FROM live_prompts WHERE queue != ?) AS imported,
    (SELECT count(DISTINCT prompt) FROM live_prompts WHERE queue = ?) AS typed,
    (SELECT count(*) FROM (SELECT prompt FROM live_comparisons
        WHERE id NOT IN (SELECT comparison FROM duel_votes WHERE comparison IS NOT NULL)
        UNION SELECT prompt FROM live_rankings)) AS votes,
    (SELECT count(DISTINCT prompt) FROM live_demonstrations) AS demonstrations"""
