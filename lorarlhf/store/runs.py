"""Training runs: what was asked, how it goes, what came out. Written by the engine, read by app and terminal."""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lorarlhf.errors import StoreError
from lorarlhf.store.codec import dump
from lorarlhf.store.database import Database
from lorarlhf.store.migrations import now
from lorarlhf.types import next_name

UNFINISHED = {"running": "is at work", "paused": "was stopped", "interrupted": "broke off"}
"""Statuses of runs that have yet to make their adapter, in words."""
HELDOUT = 1_000_000
"""Position from which on the samples of a step are answers to held-out prompts."""
QUEUE = "queue of stages"
"""Under this name the app keeps what waits for its turn; see `Line` in ui/train/queue.py."""


HOUSEKEEPING = "a checkpoint takes "
"""How events begin that are no news to a person."""


@dataclass(frozen=True)
class RunRow:
    """One run as it stands. Times are UTC, ISO 8601."""

    id: str
    """The name of the adapter where that was made up, `ppo-3`; else the next such name that is free."""
    number: int
    """Counted over all runs: a higher one is a later run."""
    stage: str
    status: str
    """`running`, `paused`, `done`, `failed`, … : the engine's words."""
    adapter: str
    base: str
    settings: dict[str, Any]
    parents: dict[str, Any]
    created: str
    updated: str
    """When it last wrote anything: an old one on a running run means its engine is gone."""
    finished: str
    """Empty until it ends."""
    step: int
    """Latest step that has metrics."""
    result: dict[str, Any]
    error: str

    @property
    def called(self) -> str:
        """What a person knows it by: the adapter it makes, with the run's id where that is another."""
        return self.adapter if self.adapter == self.id else f"{self.adapter} (run {self.id})"


class Event(NamedTuple):
    """Something a person should know about a run."""

    step: int
    created: str
    text: str


class Runs(Database):
    """What the engine does."""

    def start_run(
        self, stage: str, adapter: str, base: str, settings: Mapping[str, Any], parents: Mapping[str, Any]
    ) -> str:
        """Record a run that starts now, as `running`; return its id."""
        with self.transaction() as db:
            known = self.run_names()
            taken = {row["id"] for row in db.execute("SELECT id FROM runs")}
            made_up = re.fullmatch(rf"{stage}-[1-9]\d*", adapter) and adapter not in taken
            id, time = adapter if made_up else next_name(stage, known), now()
            db.execute(
                """INSERT INTO runs (id, stage, status, adapter, base, settings, parents, created, updated)
                VALUES (?, ?, 'running', ?, ?, ?, ?, ?, ?)""",
                (id, stage, adapter, base, dump(settings), dump(parents), time, time),
            )
        return id

    def run_names(self) -> set[str]:
        """Give the ids of all runs, and the names of what they and the queue make or made: none shall come again."""
        recorded = self.query("SELECT id, adapter FROM runs")
        return {name for row in recorded for name in (row["id"], row["adapter"])} | set(self._queued())

    def promised(self, *, to_start: bool = False) -> dict[str, str]:
        """Give the names of adapters that unfinished runs, or runs in the queue, will make; each with its run in words.

        Whoever is `to_start` a run may be doing so for the queue: the name of the one that starts is left out.
        """
        return self._queued(to_start) | {
            run.adapter: f"run {run.id}, which {UNFINISHED[run.status]} after step {run.step}"
            for run in self.runs()
            if run.status in UNFINISHED
        }

    def _queued(self, to_start: bool = False) -> dict[str, str]:
        line = self.get_meta(QUEUE, {})
        first = 1 if to_start and line.get("start_after") is not None else 0
        waiting = line.get("waiting", ())[first:]
        return {one["name"]: f"the {one['stage']} run, which waits in the queue" for one in waiting if one["name"]}

    def set_status(self, run_id: str, status: str) -> None:
        """Change a run's status; a run that goes on is no longer finished."""
        self._update(run_id, "status = ?, finished = '', error = ''", (status,))

    def finish_run(self, run_id: str, status: str, result: Mapping[str, Any], error: str = "") -> None:
        """Record how a run ended."""
        self._update(run_id, "status = ?, finished = ?, result = ?, error = ?", (status, now(), dump(result), error))

    def revise_run(
        self, run_id: str, settings: Mapping[str, Any], parents: Mapping[str, Any], adapter: str | None = None
    ) -> None:
        """Record that a run goes on under other conditions, or that its adapter has another name."""
        self._update(
            run_id,
            "settings = ?, parents = ?, adapter = coalesce(?, adapter)",
            (dump(settings), dump(parents), adapter),
        )

    def rewind(self, run_id: str, step: int) -> None:
        """Forget what was recorded after a step: the run goes on from there and records it again."""
        with self.transaction() as db:
            self._update(run_id, "step = min(step, ?)", (step,))
            db.execute("DELETE FROM metrics WHERE run = ? AND step > ?", (run_id, step))
            db.execute("DELETE FROM events WHERE run = ? AND step > ?", (run_id, step))
            # Samples are numbered by the step they are drawn in; held-out answers, as metrics, by the steps done.
            sql = "DELETE FROM samples WHERE run = ? AND step + (position < ?) > ?"
            db.execute(sql, (run_id, HELDOUT, step))

    def log_metrics(self, run_id: str, step: int, metrics: Mapping[str, float]) -> None:
        """Record the numbers of a step; a step done again after a resume takes the place of the first.

        Not synced to disk by itself: power loss may take the last few steps, which the checkpoint redoes.
        """
        rows = [(run_id, step, name, float(value)) for name, value in metrics.items()]
        with self.transaction(durable=False) as db:
            self._update(run_id, "step = max(step, ?)", (step,))
            db.executemany("INSERT OR REPLACE INTO metrics VALUES (?, ?, ?, ?)", rows)

    def log_samples(
        self, run_id: str, step: int, samples: Iterable[Mapping[str, Any]], *, heldout: bool = False
    ) -> None:
        """Record the sample answers of a step, in place of those recorded for that step before.

        Those to `heldout` prompts are kept beside those of training, after them, and say so.
        """
        first, mark = (HELDOUT, {"heldout": True}) if heldout else (0, {})
        rows = [(run_id, step, first + i, dump({**sample, **mark})) for i, sample in enumerate(samples)]
        with self.transaction(durable=False) as db:
            self._update(run_id)
            sql = "DELETE FROM samples WHERE run = ? AND step = ? AND (position >= ?) = ?"
            db.execute(sql, (run_id, step, HELDOUT, heldout))
            db.executemany("INSERT INTO samples VALUES (?, ?, ?, ?)", rows)

    def log_event(self, run_id: str, step: int, text: str) -> None:
        """Record something a person should know."""
        with self.transaction() as db:
            self._update(run_id)
            db.execute("INSERT INTO events (run, step, created, text) VALUES (?, ?, ?, ?)", (run_id, step, now(), text))

    def run(self, run_id: str) -> RunRow:
        """Read a run; raise `StoreError` with the nearest id if there is none."""
        rows = self.query("SELECT * FROM runs WHERE id = ?", (run_id,))
        if not rows:
            raise self._unknown(run_id)
        return _run_row(dict(rows[0]))

    def find_run(self, name: str) -> RunRow:
        """Read a run by its id or, where no run has that, by the adapter it makes: then the newest one."""
        sql = "SELECT id FROM runs WHERE id = ? OR adapter = ? ORDER BY id = ? DESC, number DESC LIMIT 1"
        rows = self.query(sql, (name, name, name))
        return self.run(rows[0]["id"] if rows else name)

    def runs(self) -> list[RunRow]:
        """List all runs, oldest first."""
        return [_run_row(dict(row)) for row in self.query("SELECT * FROM runs ORDER BY number")]

    def metrics(self, run_id: str, after_step: int | None = None) -> list[tuple[int, str, float]]:
        """List (step, name, value) in order of steps; only later than `after_step` if that is given."""
        sql = "SELECT step, name, value FROM metrics WHERE run = ? AND step > ? ORDER BY step, name"
        rows = self._of(sql, run_id, after_step)
        # SQLite has no NaN and stores it as NULL.
        return [(step, name, math.nan if value is None else value) for step, name, value in rows]

    def samples(self, run_id: str, after_step: int | None = None) -> list[dict[str, Any]]:
        """List the sample answers in order of steps, each with its `step`."""
        sql = "SELECT step, sample FROM samples WHERE run = ? AND step > ? ORDER BY step, position"
        rows = self._of(sql, run_id, after_step)
        return [{"step": step, **json.loads(sample)} for step, sample in rows]

    def events(self, run_id: str) -> list[Event]:
        """List what a person should know, in the order it happened."""
        rows = self._of("SELECT step, created, text FROM events WHERE run = ? AND step > ? ORDER BY id", run_id, None)
        return [Event(*row) for row in rows]

    def said(self, run: str) -> list[str]:
        """List what a person should know of a run, in words: what was chosen, left out or kept, and why it stopped."""
        return [event.text for event in self.events(run) if not event.text.startswith(HOUSEKEEPING)]

    def _of(self, sql: str, run_id: str, after_step: int | None) -> list[Any]:
        rows = self.query(sql, (run_id, -(2**63) if after_step is None else after_step))
        if not rows:
            self.run(run_id)  # an empty answer about a run that does not exist would mislead
        return rows

    def _update(self, run_id: str, changes: str = "", values: tuple[Any, ...] = ()) -> None:
        assignments = f"updated = ?, {changes}" if changes else "updated = ?"
        with self.transaction() as db:
            if not db.execute(f"UPDATE runs SET {assignments} WHERE id = ?", (now(), *values, run_id)).rowcount:
                raise self._unknown(run_id)

    def _unknown(self, run_id: str) -> StoreError:
        ids = [row["id"] for row in self.query("SELECT id FROM runs ORDER BY number DESC")]
        if not ids:
            return StoreError(f"there is no run {run_id!r}; this workspace has no runs yet")
        near = difflib.get_close_matches(run_id, ids, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"the newest is {ids[0]}"
        return StoreError(f"there is no run {run_id!r}; {hint}")


def _run_row(row: dict[str, Any]) -> RunRow:
    return RunRow(**row | {name: json.loads(row[name]) for name in ("settings", "parents", "result")})
