"""Comparisons, rankings, demonstrations and prompts as rows that are only ever added.

Undoing and replacing add a row to `retractions`; nothing is overwritten or deleted, and `history` shows all of it.
"""

from __future__ import annotations

import difflib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from lorarlhf.errors import StoreError
from lorarlhf.store.codec import KINDS, Vote, decode, dump, encode, fingerprint, kind_of, prompt_of
from lorarlhf.store.database import Database, worded
from lorarlhf.store.migrations import now
from lorarlhf.types import Comparison, Demonstration, Prompt, Ranking, prompt_key

V = TypeVar("V")


@dataclass(frozen=True)
class Row(Generic[V]):
    """A stored value and what the store knows about it."""

    kind: str
    """One of `KINDS`."""
    id: int
    created: str
    """UTC, ISO 8601."""
    value: V
    queue: str = ""
    """Of a prompt: the list it stands in."""
    undone: str = ""
    """When it was undone or replaced; empty while it counts."""
    replaced_by: int | None = None
    base: str = ""
    """Fingerprint of the base it belongs to; empty where it counts on every base."""


OTHERS = "other bases"
"""Name in the workspace of the switch that lets what was said on other bases count too."""

_SCOPE = """CREATE TEMP VIEW live_{kind} AS SELECT * FROM main.live_{kind}
    WHERE base IN ('', (SELECT base FROM scope)) OR (SELECT value FROM main.meta WHERE key = '{others}') = 'true'"""


class Votes(Database):
    """What people said. Once a base is named, what belongs to it or to none."""

    base = ""
    """Fingerprint of the base that new rows belong to; empty where they belong to every base."""

    def belong(self, base: str) -> None:
        """Count through this connection only what belongs to a base, by fingerprint, and give new rows to it.

        An empty name counts everything. What belongs to no base always counts; what belongs to others does where the
        person said so. Histories and rows asked for by id know no bases: a run goes on with what it began with.
        """
        with self._lock, worded(self.path):
            for kind in KINDS:
                self._db.execute(f"DROP VIEW IF EXISTS temp.live_{kind}")
            self._db.execute("CREATE TEMP TABLE IF NOT EXISTS scope (base TEXT)")
            self._db.execute("DELETE FROM temp.scope")
            self._db.execute("INSERT INTO temp.scope VALUES (?)", (base,))
            for kind in KINDS if base else ():
                self._db.execute(_SCOPE.format(kind=kind, others=OTHERS))
            self.base = base

    def elsewhere(self) -> dict[str, int]:
        """Count the rows that belong to other bases, per kind."""
        counts = (f"(SELECT count(*) FROM main.live_{kind} WHERE base NOT IN ('', ?)) AS {kind}" for kind in KINDS)
        return dict(self.query(f"SELECT {', '.join(counts)}", (self.base,) * len(KINDS))[0]) if self.base else {}

    def add_comparison(self, c: Comparison) -> int:
        """Store a comparison, on disk when this returns; return its row id."""
        return self.add_comparisons([c])[0]

    def add_comparisons(self, comparisons: Iterable[Comparison]) -> list[int]:
        """Store comparisons, all or none; return their row ids."""
        return self._add("comparisons", comparisons)

    def add_ranking(self, ranking: Ranking) -> int:
        """Store a ranking, on disk when this returns; return its row id."""
        return self.add_rankings([ranking])[0]

    def add_rankings(self, rankings: Iterable[Ranking]) -> list[int]:
        """Store rankings, all or none; return their row ids."""
        return self._add("rankings", rankings)

    def add_demonstration(self, demonstration: Demonstration) -> int:
        """Store a demonstration, on disk when this returns; return its row id."""
        return self.add_demonstrations([demonstration])[0]

    def add_demonstrations(self, demonstrations: Iterable[Demonstration]) -> list[int]:
        """Store demonstrations, all or none; return their row ids."""
        return self._add("demonstrations", demonstrations)

    def add_prompts(self, prompts: Iterable[Prompt], queue: str = "") -> list[int]:
        """Store prompts to be answered later, all or none; return their row ids."""
        return self._add("prompts", prompts, queue)

    def comparisons(self) -> list[Row[Comparison]]:
        """List the comparisons that count, oldest first."""
        return self._live("comparisons")

    def rankings(self) -> list[Row[Ranking]]:
        """List the rankings that count, oldest first."""
        return self._live("rankings")

    def demonstrations(self) -> list[Row[Demonstration]]:
        """List the demonstrations that count, oldest first."""
        return self._live("demonstrations")

    def prompts(self, queue: str | None = None) -> list[Row[Prompt]]:
        """List the prompts that count, oldest first; of one queue if it is named."""
        rows = self._live("prompts")
        return rows if queue is None else [row for row in rows if row.queue == queue]

    def undo(self, kind: str, id: int) -> None:
        """Stop counting a row; raise `StoreError` if there is none or it was undone before."""
        self.retract(kind, id)

    def replace(self, kind: str, id: int, new_value: Vote) -> int:
        """Put a new value in the place of a row that is kept in the history; return the new row's id."""
        if kind_of(new_value) != known_kind(kind):
            raise StoreError(f"cannot replace one of the {kind} with one of the {kind_of(new_value)}")
        with self.transaction() as db:
            queue = "queue" if kind == "prompts" else "''"
            old = db.execute(f"SELECT base, {queue} AS queue FROM {kind} WHERE id = ?", (id,)).fetchone()
            new = self._insert(new_value, now(), old["queue"] if old else "", base=old["base"] if old else None)
            self.retract(kind, id, replaced_by=new)
        return new

    def history(self, kind: str | None = None) -> list[Row[Any]]:
        """List every row there ever was, undone and replaced ones too, of one kind or of all."""
        kinds = KINDS if kind is None else (known_kind(kind),)
        return [row for name in kinds for row in self._rows(name, _EVERY.format(kind=name))]

    def some(self, kind: str, ids: Iterable[int]) -> list[Row[Any]]:
        """Read the rows with these ids, undone ones too, oldest first; ids that never were are left out."""
        sql = _EVERY.format(kind=known_kind(kind)).replace(
            " ORDER BY", f" WHERE {kind}.id IN (SELECT value FROM json_each(?)) ORDER BY"
        )
        return self._rows(kind, sql, (dump(list(ids)),))

    def conversations(self, keys: Iterable[str]) -> dict[str, Prompt]:
        """Read the prompts with these keys; those nothing was ever said about are left out."""
        sql = "SELECT key, messages FROM conversations WHERE key IN (SELECT value FROM json_each(?))"
        return {row["key"]: tuple(json.loads(row["messages"])) for row in self.query(sql, (dump(list(keys)),))}

    def counts(self) -> dict[str, int]:
        """Count what counts: rows per kind, raters, and rows undone or replaced."""
        selects = [f"(SELECT count(*) FROM live_{kind}) AS {kind}" for kind in KINDS]
        selects.append("(SELECT count(DISTINCT rater) FROM live_comparisons) AS raters")
        selects.append("(SELECT count(*) FROM retractions) AS undone")
        return dict(self.query(f"SELECT {', '.join(selects)}")[0])

    def outcomes(self) -> dict[str, int]:
        """Count the comparisons that count, per outcome."""
        sql = "SELECT outcome, count(*) FROM live_comparisons GROUP BY outcome ORDER BY count(*) DESC"
        return {row[0]: row[1] for row in self.query(sql)}

    def fingerprints(self, kind: str) -> set[tuple[str, str]]:
        """Give the fingerprint of every row that counts, with its queue (empty except for prompts)."""
        queue = "queue" if known_kind(kind) == "prompts" else "''"
        return {(row[0], row[1]) for row in self.query(f"SELECT fingerprint, {queue} FROM live_{kind}")}

    def insert(
        self, value: Vote, *, created: str = "", queue: str = "", name: str = "", base: str | None = None
    ) -> int:
        """Add a row. Only an import passes `created` and `base` of a backup, or the fingerprint it knows as `name`."""
        return self._insert(value, created or now(), queue, name, base)

    def retract(self, kind: str, id: int, *, replaced_by: int | None = None, created: str = "") -> None:
        """Record that a row no longer counts. Only bringing back a backup passes `created`."""
        with self.transaction() as db:
            if not db.execute(f"SELECT 1 FROM {known_kind(kind)} WHERE id = ?", (id,)).fetchone():
                raise StoreError(f"there is no row {id} among the {kind}")
            try:
                db.execute(
                    "INSERT INTO retractions (created, kind, row, replaced_by) VALUES (?, ?, ?, ?)",
                    (created or now(), kind, id, replaced_by),
                )
            except sqlite3.IntegrityError:
                raise StoreError(f"row {id} of the {kind} was undone before") from None

    def _add(self, kind: str, values: Iterable[Any], queue: str = "") -> list[int]:
        with self.transaction():
            created = now()
            ids = []
            for value in values:
                if kind_of(value) != kind:
                    raise StoreError(f"{type(value).__name__} does not belong among the {kind}")
                ids.append(self._insert(value, created, queue))
        return ids

    def _insert(self, value: Vote, created: str, queue: str, name: str = "", base: str | None = None) -> int:
        prompt, kind = prompt_of(value), kind_of(value)
        if not prompt:
            raise StoreError(f"a prompt without a single message cannot be stored among the {kind}")
        columns = {"created": created, "prompt": "", "base": self.base if base is None else base, **encode(value)}
        if kind == "prompts":
            columns["queue"] = queue
        with self.transaction() as db:
            columns["prompt"] = key = prompt_key(prompt)
            columns["fingerprint"] = name or fingerprint(value)
            db.execute("INSERT OR IGNORE INTO conversations VALUES (?, ?)", (key, dump(prompt)))
            names, marks = ", ".join(columns), ", ".join("?" * len(columns))
            try:
                cursor = db.execute(f"INSERT INTO {kind} ({names}) VALUES ({marks})", tuple(columns.values()))
            except sqlite3.IntegrityError as error:
                raise StoreError(_refused(value, error)) from error
        return int(cursor.lastrowid or 0)

    def _live(self, kind: str) -> list[Row[Any]]:
        return self._rows(kind, f"SELECT *, '' AS undone, NULL AS replaced_by FROM live_{kind} ORDER BY id")

    def _rows(self, kind: str, sql: str, values: Sequence[Any] = ()) -> list[Row[Any]]:
        prompts: dict[str, Prompt] = {}
        rows = []
        for row in self.query(sql, values):
            if row["prompt"] not in prompts:
                prompts[row["prompt"]] = tuple(json.loads(row["messages"]))
            rows.append(
                Row(
                    kind=kind,
                    id=row["id"],
                    created=row["created"],
                    value=decode(kind, row, prompts[row["prompt"]]),
                    queue=row["queue"] if kind == "prompts" else "",
                    undone=row["undone"],
                    replaced_by=row["replaced_by"],
                    base=row["base"],
                )
            )
        return rows


_EVERY = """SELECT {kind}.*, messages, coalesce(retractions.created, '') AS undone, replaced_by FROM {kind}
    JOIN conversations ON conversations.key = {kind}.prompt
    LEFT JOIN retractions ON retractions.kind = '{kind}' AND retractions.row = {kind}.id ORDER BY {kind}.id"""


def known_kind(kind: str) -> str:
    """Return `kind` if it names a table of votes; raise `StoreError` with the nearest otherwise."""
    if kind in KINDS:
        return kind
    near = difflib.get_close_matches(kind, KINDS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(KINDS)}"
    raise StoreError(f"there are no {kind!r} in a workspace; {hint}")


def _refused(value: Vote, error: sqlite3.IntegrityError) -> str:
    if isinstance(value, Comparison) and "FOREIGN KEY" in str(error):
        return f"repeats = {value.repeats}: there is no such comparison"
    return f"one of the {kind_of(value)} cannot be stored: {error}"
