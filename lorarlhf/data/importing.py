"""Bring a file into the workspace: every row is read and checked first, then all are written at once or none."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

from lorarlhf.data.formats import FORMATS, Read, as_kind, read_row
from lorarlhf.data.formats_files import EXTENSIONS, RawFile, RawRow, open_file, open_hub
from lorarlhf.data.formats_layouts import is_flat, is_tree, rows_of_tree, trees_of
from lorarlhf.data.formats_lossless import MARK, Stored, from_record
from lorarlhf.data.formats_messages import RowError
from lorarlhf.errors import DataError
from lorarlhf.store import KINDS, Store, Vote, fingerprint, kind_of
from lorarlhf.types import Comparison, Demonstration, Outcome, Prompt, Ranking

Progress = Callable[[int, "int | None"], None]
"""Called with rows read so far and rows in all, None where that is not known beforehand."""

IMPORT_KINDS = (*FORMATS, "all")
"""What a file can be imported as; `all` brings back everything a lossless export holds."""
SHOWN_PROBLEMS = 5
PROGRESS_ROWS = 500
PEEK_ROWS = 20

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")


@dataclass(frozen=True)
class Item:
    """One row that can be imported."""

    value: Vote
    where: str
    stored: Stored | None = None
    """What a lossless file says about its row; None for every other format."""


@dataclass(frozen=True)
class Imported:
    """What a file holds, checked, not yet in any workspace."""

    file: str
    kind: str
    format: str
    """Format names joined by `+`, the commonest first."""
    items: list[Item]
    bad: int = 0
    """Bad rows left out, where the person asked for that."""
    other: int = 0
    """Rows of a lossless file that are of another kind."""
    understood: str = ""
    """What the file was taken for, in words: counts, and which columns mean what."""

    def values(self) -> list[Vote]:
        """List the values alone."""
        return [item.value for item in self.items]


def read_file(
    path_or_hub_id: str | os.PathLike[str],
    kind: str,
    progress: Progress | None = None,
    *,
    skip_bad: bool = False,
) -> Imported:
    """Read a file, or a Hub data set where no such file exists, as one of `IMPORT_KINDS`.

    Raises one `DataError` that names the bad rows by line and field; with `skip_bad` they are left out and counted.
    """
    if kind not in IMPORT_KINDS:
        raise DataError(f"cannot import as {kind!r}; known: {', '.join(IMPORT_KINDS)}")
    file = _open(os.fspath(path_or_hub_id), kind)
    items: list[Item] = []
    problems: list[str] = []
    reads = _Reads()
    other = done = 0
    for done, raw in enumerate(_assembled(file.rows, kind), 1):
        if progress and done % PROGRESS_ROWS == 0:
            progress(done, file.total)
        try:
            read, item = _read(raw, kind)
        except RowError as error:
            problems.append(f"{raw.where}: {error}")
            continue
        reads.add(read)
        if item is None:
            other += 1
        else:
            items.append(item)
    if problems and not skip_bad:
        raise DataError(_all_problems(file.name, problems))
    if not items:
        raise DataError(f"{file.name} holds no {kind}{_why_none(other, problems)}")
    if progress:
        progress(done, done)
    values = [item.value for item in items]
    return Imported(file.name, kind, reads.names, items, len(problems), other, reads.words(kind, values))


def read_prompts(path_or_hub_id: str | os.PathLike[str]) -> list[Prompt]:
    """Read the prompts of a file of any format, without importing them."""
    return cast(list[Prompt], read_file(path_or_hub_id, "prompts").values())


def read_demonstrations(path_or_hub_id: str | os.PathLike[str]) -> list[Demonstration]:
    """Read prompts with an answer each, without importing them."""
    return cast(list[Demonstration], read_file(path_or_hub_id, "demonstrations").values())


def import_file(
    store: Store,
    path_or_hub_id: str | os.PathLike[str],
    kind: str,
    progress: Progress | None = None,
    *,
    queue: str = "",
    skip_bad: bool = False,
    on_read: Callable[[str], object] = lambda understood: None,
) -> dict[str, Any]:
    """Read a file and write what is new in it, in one transaction; return what happened, for `--json`.

    `queue` names the list that prompts join; `on_read` gets what was understood before anything is written. Raises
    `DataError`; the store is then as it was.
    """
    found = read_file(path_or_hub_id, kind, progress, skip_bad=skip_bad)
    on_read(f"{found.file}: {found.understood}")
    with store.transaction():
        added = _restore(store, found) + _add_new(store, [i for i in found.items if not i.stored], queue)
    return {
        "file": found.file,
        "kind": kind,
        "format": found.format,
        "understood": found.understood,
        "added": added,
        "duplicates": len(found.items) - added,
        "bad": found.bad,
        "other": found.other,
    }


def guess_kind(path: Path) -> str:
    """Tell what a file is most likely meant as, from its first rows: the kind that uses most of what they say.

    Any row with a prompt could be taken for a prompt alone, so that is the last guess, also for what can't be read.
    """
    try:
        rows = list(islice(open_file(path, "prompts").rows, PEEK_ROWS))
    except DataError:
        return "prompts"
    if any(MARK in raw.fields for raw in rows):
        return "all"
    for kind in FORMATS:
        read = list(_assembled(iter(rows), kind))
        if 2 * sum(_is(raw, kind) for raw in read) > len(read):
            return kind
    return "prompts"


def _is(raw: RawRow, kind: str) -> bool:
    try:
        _read(raw, kind)
    except RowError:
        return False
    return True


def _open(name: str, kind: str) -> RawFile:
    path = Path(name).expanduser()
    is_file_name = any(suffix in EXTENSIONS for suffix in path.suffixes)
    if not path.exists() and _HUB_ID.fullmatch(name) and not is_file_name and not path.parent.is_dir():
        return open_hub(name)
    return open_file(path, kind)


class _Reads:
    """How the rows of a file were read, for words about it."""

    def __init__(self) -> None:
        self.formats: Counter[str] = Counter()
        self.says: dict[str, None] = {}
        self.used: dict[str, None] = {}
        self.left: dict[str, None] = {}

    def add(self, read: Read) -> None:
        """Count a row."""
        self.formats[read.format] += 1
        self.says |= dict.fromkeys([read.says] if read.says else [])
        self.used |= dict.fromkeys(read.used)
        self.left |= dict.fromkeys(read.left)

    @property
    def names(self) -> str:
        """Format names joined by `+`, the commonest first."""
        return "+".join(name for name, _ in self.formats.most_common())

    def words(self, kind: str, values: list[Vote]) -> str:
        """Say what the file was taken for."""
        ties = sum(
            isinstance(value, Comparison) and value.outcome in (Outcome.TIE, Outcome.BOTH_BAD) for value in values
        )
        ranked = sum(isinstance(value, Ranking) for value in values)
        counts = [
            f"{len(values):,} {'rows' if kind == 'all' else kind if len(values) != 1 else kind.removesuffix('s')}"
        ]
        counts += [f"{ties:,} of them ties"] if ties else []
        counts += [f"{ranked:,} of them rankings"] if ranked and kind == "comparisons" else []
        parts = [", ".join(counts), *self.says]
        parts += [f"read from {', '.join(self.used)}"] if self.used else []
        left = [name for name in self.left if name not in self.used]
        parts += [f"columns left alone: {', '.join(left)}"] if left else []
        return "; ".join(parts)


def _assembled(rows: Iterator[RawRow], kind: str) -> Iterator[RawRow]:
    """Take conversation trees apart into a row for each question; other rows stay as they are."""
    flat: list[RawRow] = []
    for raw in rows:
        if raw.fields and is_flat(raw.fields):
            flat.append(raw)
        elif raw.fields and is_tree(raw.fields):
            yield from (RawRow(raw.where, fields) for fields in rows_of_tree(raw.fields["prompt"], kind))
        else:
            yield raw
    where = {raw.fields["message_id"]: raw.where for raw in flat}
    for root in trees_of([raw.fields for raw in flat]):
        yield from (RawRow(where[root["message_id"]], fields) for fields in rows_of_tree(root, kind))


def _read(raw: RawRow, kind: str) -> tuple[Read, Item | None]:
    if raw.problem:
        raise RowError("", raw.problem)
    if MARK not in raw.fields:
        if kind == "all":
            raise RowError("", f"is not of a lossless export; import it as {', '.join(FORMATS)}")
        read = read_row(raw.fields, kind)
        return read, Item(read.value, raw.where)
    value, stored = from_record(raw.fields)
    read = Read("lossless", value)
    if kind == "prompts" and stored.kind != "prompts":
        return read, None if stored.undone else Item(as_kind(value, kind), raw.where)
    wanted = {"all": KINDS, "comparisons": ("comparisons", "rankings")}.get(kind, (kind,))
    return read, Item(value, raw.where, stored) if stored.kind in wanted else None


def _all_problems(name: str, problems: list[str]) -> str:
    shown = "; ".join(problems[:SHOWN_PROBLEMS])
    more = f"; and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
    rows = "1 bad row" if len(problems) == 1 else f"{len(problems)} bad rows"
    return f"{name}: {rows}, nothing was imported: {shown}{more}"


def _why_none(other: int, problems: list[str]) -> str:
    if other:
        return f", only {other} rows of another kind"
    return f": all {len(problems)} rows are bad, e.g. {problems[0]}" if problems else ""


def _add_new(store: Store, items: list[Item], queue: str) -> int:
    seen = {kind: store.fingerprints(kind) for kind in KINDS}
    added = 0
    for item in items:
        kind = kind_of(item.value)
        own_queue = queue if kind == "prompts" else ""
        key = (fingerprint(item.value), own_queue)
        if key not in seen[kind]:
            seen[kind].add(key)
            store.insert(item.value, queue=own_queue, name=key[0])
            added += 1
    return added


def _restore(store: Store, found: Imported) -> int:
    """Bring rows of a lossless file back with their times and history; ids may change, references follow them.

    A row is a duplicate if the store has one that says the same since the same moment: the same vote given twice
    is two rows, and both come back.
    """
    items = [item for item in found.items if item.stored]
    present: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for row in store.history() if items else ():
        present[row.kind, row.created, row.queue, fingerprint(row.value)].append(row.id)
    new_ids: dict[tuple[str, int], int] = {}
    added: list[Stored] = []
    for item in items:
        stored = item.stored
        assert stored is not None
        same = present[stored.kind, stored.created, stored.queue, fingerprint(item.value)]
        if same:
            new_ids[stored.kind, stored.id] = same.pop(0)
            continue
        value = _follow_repeats(item, new_ids, found.file)
        new_ids[stored.kind, stored.id] = store.insert(
            value, created=stored.created, queue=stored.queue, base=stored.base
        )
        added.append(stored)
    for stored in added:
        if stored.undone:
            by = None if stored.replaced_by is None else new_ids.get((stored.kind, stored.replaced_by))
            id = new_ids[stored.kind, stored.id]
            store.retract(stored.kind, id, replaced_by=by, created=stored.undone)
    return len(added)


def _follow_repeats(item: Item, new_ids: dict[tuple[str, int], int], file: str) -> Vote:
    value = item.value
    if not isinstance(value, Comparison) or value.repeats is None:
        return value
    new = new_ids.get(("comparisons", value.repeats))
    if new is None:
        raise DataError(f"{file}, {item.where}: field repeats names row {value.repeats}, which no earlier line holds")
    return replace(value, repeats=new)
