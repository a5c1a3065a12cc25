"""Which prompts a policy practises on: what was imported, typed, voted on, or answered by demonstrations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lorarlhf.store import Row, Store
from lorarlhf.store.codec import prompt_of
from lorarlhf.types import Prompt, prompt_key

TYPED = "typed"
"""List of the workspace's prompts that keeps what the person typed."""
SOURCES = ("imported", "typed", "votes", "demonstrations")
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
    """Count the different prompts of each source."""
    rows = {source: practice_rows(store, [source]) for source in SOURCES[:3]}
    counts = {name: len(prompts_in({**found, "demonstrations": []})) for name, found in rows.items()}
    return counts | {"demonstrations": len(unique(row.value.prompt for row in store.demonstrations()))}
