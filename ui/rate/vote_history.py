"""What a person did while rating, to be undone, looked at and changed. Nothing is overwritten; knows no Gradio.

An act is all that one key press wrote: mostly one row, but a better answer writes two, which are undone together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lorarlhf.errors import DataError, StoreError
from lorarlhf.store import Row, Store, Vote, kind_of
from lorarlhf.types import Comparison, Ranking
from lorarlhf.ui.markdown import rendered, told
from lorarlhf.ui.rate.sheets import VERDICTS, Sheet, dense, is_written, verdict_of

META, MOST_ACTS = "rating acts", 200
"""Name in the workspace of the newest acts, and how many are kept to be undone."""
PAGE = 10
LETTERS, NUMBERS = "ABCDEF", "123456"
"""What the page calls answers that are compared, and those that are ranked: by the key that places them."""

Act = list[tuple[str, int]]
"""The rows of one act: kind and id."""


class History:
    """The acts of rating, newest last, kept in the workspace beside the rows they wrote."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def _acts(self) -> list[Act]:
        """Read the acts: what is changed elsewhere, as under Data, is undone as well."""
        return [[(kind, id) for kind, id in act] for act in self._store.get_meta(META, [])]

    def __len__(self) -> int:
        return len(self._acts)

    def add(self, values: Sequence[Vote]) -> None:
        """Store what one key press says, all of it or nothing, on disk when this returns."""
        with self._store.transaction():
            act = [(kind_of(value), self._store.insert(value)) for value in values]
            self._keep([*self._acts, act][-MOST_ACTS:])

    def undo(self) -> Sheet:
        """Take the newest act back and lay its answers out again; raise `DataError` where there is none."""
        while acts := self._acts:
            rows = [row for kind, id in acts[-1] for row in self._store.some(kind, [id]) if not row.undone]
            if self._store.base and any(row.base not in ("", self._store.base) for row in rows):
                raise DataError("your last vote was about another base; load that one to undo it")
            with self._store.transaction():
                for row in rows:
                    self._store.undo(row.kind, row.id)
                self._keep(acts[:-1])
            if rows:  # else it was deleted elsewhere
                return sheet_of(rows)
        raise DataError("there is nothing to undo")

    def change(self, kind: str, id: int, verdict: str | Sequence[int]) -> int:
        """Put another verdict, or other ranks, in the place of what was said → the new row's id.

        The old row stays in the history.
        """
        row = self._live(kind, id)
        new = changed(row.value, verdict)
        if new == row.value:
            return id
        with self._store.transaction():
            number = self._store.replace(kind, id, new)
            self._keep([[(k, number if (k, i) == (kind, id) else i) for k, i in act] for act in self._acts])
        return number

    def take_back(self, kind: str, id: int) -> None:
        """Undo an earlier act, whichever it is, by one of its rows."""
        self._live(kind, id)
        act = next((act for act in self._acts if (kind, id) in act), [(kind, id)])
        with self._store.transaction():
            for own_kind, own_id in act:
                if not self._store.some(own_kind, [own_id])[0].undone:
                    self._store.undo(own_kind, own_id)
            self._keep([other for other in self._acts if other != act])

    def page(self, number: int) -> dict[str, Any]:
        """Describe one page of what was said, newest first, and how many pages there are."""
        live = """(SELECT 'comparisons' AS kind, id, created FROM live_comparisons WHERE source = 'app'
            UNION ALL SELECT 'rankings', id, created FROM live_rankings WHERE source = 'app')"""
        count = self._store.query(f"SELECT count(*) FROM {live}")[0][0]
        pages = max(1, -(-count // PAGE))
        number = min(max(number, 0), pages - 1)
        sql = f"SELECT * FROM {live} ORDER BY created DESC, id DESC LIMIT ? OFFSET ?"
        found = [(row["kind"], row["id"]) for row in self._store.query(sql, (PAGE, number * PAGE))]
        rows = {(kind, row.id): row for kind in ("comparisons", "rankings") for row in self._some(kind, found)}
        return {"rows": [described(rows[key]) for key in found], "page": number, "pages": pages, "count": count}

    def _some(self, kind: str, keys: Sequence[tuple[str, int]]) -> list[Row[Any]]:
        return self._store.some(kind, [id for own, id in keys if own == kind])

    def _live(self, kind: str, id: int) -> Row[Any]:
        rows = self._store.some(kind, [id])
        if not rows or rows[0].undone:
            raise StoreError(f"row {id} of the {kind} was changed or undone meanwhile; look at the list again")
        return rows[0]

    def _keep(self, acts: list[Act]) -> None:
        self._store.set_meta(META, acts)


def sheet_of(rows: Sequence[Row[Any]]) -> Sheet:
    """Lay the answers of an act out as they stood."""
    said = next(row.value for row in rows if row.kind != "demonstrations")
    if isinstance(said, Ranking):
        return Sheet.of_ranking(said)
    sheet = Sheet.of_comparison(said)
    sheet.repeats = said.repeats
    return sheet


def changed(said: Comparison | Ranking, verdict: str | Sequence[int]) -> Comparison | Ranking:
    """Say something else about the same answers."""
    if isinstance(said, Comparison):
        if not isinstance(verdict, str) or verdict not in VERDICTS:
            raise DataError(f"{verdict!r} is no verdict; known: {', '.join(VERDICTS)}")
        outcome, strength, _ = VERDICTS[verdict]
        return replace(said, outcome=outcome if said.left == "a" else outcome.swap(), strength=strength)
    if isinstance(verdict, str) or len(verdict) != len(said.ranks) or any(type(rank) is not int for rank in verdict):
        raise DataError(f"{verdict!r} does not rank {len(said.ranks)} answers")
    return replace(said, ranks=dense(verdict))


def described(row: Row[Any]) -> dict[str, Any]:
    """Describe what was said as the page shows it; answers by place."""
    said = row.value
    written = isinstance(said, Ranking) and is_written(said)
    sheet = sheet_of([row])
    answers, sources = sheet.placed, sheet.sources
    if written:
        answers, sources = [said.completions[0], *answers], ["you", *sources]
    labels = ["Yours", *LETTERS] if written else list(LETTERS if isinstance(said, Comparison) else NUMBERS)
    return {
        "kind": row.kind,
        "id": row.id,
        "when": row.created,
        "prompt": told(said.prompt),
        "answers": answers,
        "html": [rendered(text) for text in answers],
        "labels": labels[: len(answers)],
        "sources": sources,
        "verdict": verdict_of(said) if isinstance(said, Comparison) else "",
        "ranks": list(said.ranks) if isinstance(said, Ranking) else [],
        "words": in_words(said),
        "again": isinstance(said, Comparison) and said.repeats is not None,
        "note": said.origin.note,
        "reasons": list(said.reasons) if isinstance(said, Comparison) else [],
    }


def in_words(said: Comparison | Ranking) -> str:
    """Put a verdict in words, with the names the page gave the answers."""
    if isinstance(said, Comparison):
        return VERDICTS[verdict_of(said)][2]
    labels = ["yours", *LETTERS] if is_written(said) else list(NUMBERS)
    levels = [[labels[i] for i, r in enumerate(said.ranks) if r == rank] for rank in sorted(set(said.ranks))]
    return " > ".join(" = ".join(level) for level in levels)
