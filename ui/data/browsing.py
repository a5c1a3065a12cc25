"""Look through what people said, mend it, bring files in and take them out. Knows nothing of Gradio."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorarlhf.data.exporting import write_votes
from lorarlhf.data.formats_files import EXTENSIONS
from lorarlhf.data.importing import Imported, guess_kind, import_file, read_file
from lorarlhf.errors import DataError, StoreError
from lorarlhf.starter import shipped_file
from lorarlhf.store import KINDS, Row, Store
from lorarlhf.store.codec import prompt_of
from lorarlhf.types import Comparison, Demonstration, Message, Outcome, Ranking, is_heldout
from lorarlhf.workspace import Workspace

LARGEST = 64 * 2**20
"""Bytes of an uploaded file, and of the compressed one times `UNPACKED`."""
UNPACKED = 4
TYPES = (*EXTENSIONS, ".gz")
PAGE = 20
HUB_SECONDS = 1800
HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")
ENDINGS = {"csv": "csv"}
"""Of exported files; JSONL otherwise."""


@dataclass(frozen=True)
class Filters:
    """What to show."""

    kind: str = "comparisons"
    outcome: str = ""
    rater: str = ""
    queue: str = ""
    source: str = ""
    text: str = ""
    """Words that all stand somewhere in the row, whatever their case."""
    gone: bool = False
    """Also what was deleted or replaced."""

    def let(self, row: Row[Any]) -> bool:
        """Tell whether a row is to be shown; what its kind doesn't have is no reason against it."""
        if self.outcome and getattr(as_shown(row.value), "outcome", self.outcome) != self.outcome:
            return False
        if self.rater and hasattr(row.value, "origin") and rater_of(row) != self.rater:
            return False
        if self.source and hasattr(row.value, "origin") and row.value.origin.source != self.source:
            return False
        if self.queue and row.kind == "prompts" and row.queue != self.queue:
            return False
        said = searchable(row) if self.text else ""
        return all(word in said for word in self.text.lower().split())


@dataclass(frozen=True)
class Page:
    """Some of the rows that were looked for."""

    rows: list[Row[Any]]
    number: int
    """From 0."""
    pages: int
    found: int
    elsewhere: str = ""
    """Where rows of other kinds match, if none of this kind does."""

    @property
    def told(self) -> str:
        """Say which rows these are."""
        if not self.found:
            return f"No matches{self.elsewhere and f' ({self.elsewhere})'}"
        first = self.number * PAGE + 1
        return f"{first}–{first + len(self.rows) - 1} of {self.found}"


def look(store: Store, filters: Filters, number: int = 0) -> Page:
    """Find rows, newest first, and take one page of them; a page past the end is the last one."""
    every = store.history(filters.kind) if filters.gone else getattr(store, filters.kind)()
    rows = [row for row in reversed(every) if filters.let(row)]
    pages = max(1, -(-len(rows) // PAGE))
    number = min(max(0, number), pages - 1)
    elsewhere = "" if rows or not filters.text else _elsewhere(store, filters)
    return Page(rows[number * PAGE : (number + 1) * PAGE], number, pages, len(rows), elsewhere)


def _elsewhere(store: Store, filters: Filters) -> str:
    """Count the rows of other kinds that hold the words."""
    found = {kind: Filters(kind, text=filters.text) for kind in KINDS if kind != filters.kind}
    counts = {kind: sum(map(one.let, getattr(store, kind)())) for kind, one in found.items()}
    return ", ".join(f"{count} in {kind.capitalize()}" for kind, count in counts.items() if count)


def find(store: Store, kind: str, id: int) -> Row[Any] | None:
    """Find one row, also one that no longer counts."""
    return next(iter(store.some(kind, [id])), None)


def choices(store: Store, kind: str) -> dict[str, list[str]]:
    """List what rows of a kind can be filtered by: raters, queues, outcomes."""
    rows = store.history(kind)
    return {
        "outcome": [outcome.value for outcome in Outcome] if kind == "comparisons" else [],
        "rater": sorted({rater_of(row) for row in rows} - {""}),
        "queue": sorted({row.queue for row in rows} - {""}),
        "source": sorted({row.value.origin.source for row in rows if hasattr(row.value, "origin")} - {""}),
    }


def rater_of(row: Row[Any]) -> str:
    """Name who said it; empty for prompts."""
    return str(row.value.origin.rater) if hasattr(row.value, "origin") else ""


def searchable(row: Row[Any]) -> str:
    """Give all the text of a row, in lower case."""
    value = row.value
    texts = [message["content"] for message in prompt_of(value)] + answers_of(value)
    if hasattr(value, "origin"):
        texts += [value.origin.note, *getattr(value, "reasons", ())]
    return "\n".join(texts).lower()


def as_shown(value: Any) -> Any:
    """Give a comparison the letters that the person saw: A stood on the left. Other rows stay as they are."""
    return value.swap() if isinstance(value, Comparison) and value.left == "b" else value


def answers_of(value: Any) -> list[str]:
    """List the answers of a row of any kind, as they stood."""
    if isinstance(value, Comparison):
        seen = as_shown(value)
        return [seen.a, seen.b]
    if isinstance(value, Ranking):
        return list(value.completions)
    return [value.response] if isinstance(value, Demonstration) else []


# -- in numbers -----------------------------------------------------------------------------------------------


def held_out(store: Store) -> tuple[int, int]:
    """Count the different prompts of everything that counts: all, and those kept apart to measure on."""
    rows: list[Row[Any]] = [row for kind in KINDS for row in getattr(store, kind)()]
    prompts = {json.dumps(prompt): prompt for prompt in (prompt_of(row.value) for row in rows)}
    return len(prompts), sum(is_heldout(prompt) for prompt in prompts.values())


def sides(store: Store) -> dict[str, int]:
    """Count on which side the better answer stood in the app; far from even means that a side is favoured."""
    found = Counter({"left": 0, "right": 0})
    for row in store.comparisons():
        if row.value.outcome in (Outcome.A, Outcome.B) and row.value.origin.source == "app":
            found["left" if row.value.outcome.value == row.value.left else "right"] += 1
    return dict(found)


# -- changing -------------------------------------------------------------------------------------------------


def edit_prompt(store: Store, id: int, text: str) -> int:
    """Put another wording in the place of a prompt's last turn; return the new row's id."""
    row = _counting(store, "prompts", id)
    return _replaced(store, row, (*row.value[:-1], Message(role="user", content=_some(text))))


def edit_answer(store: Store, id: int, text: str) -> int:
    """Put another wording in the place of a demonstration's answer; return the new row's id."""
    row = _counting(store, "demonstrations", id)
    return _replaced(store, row, replace(row.value, response=_some(text)))


def _some(text: str) -> str:
    if not text.strip():
        raise DataError("some text is needed; delete the row if you don't want it")
    return text.strip()


def _counting(store: Store, kind: str, id: int) -> Row[Any]:
    """Find a row that counts; raise `StoreError` where it was deleted or replaced meanwhile."""
    row = find(store, kind, id)
    if row is None or row.undone:
        raise StoreError(f"row {id} of the {kind} is gone; look at the list again")
    return row


def _replaced(store: Store, row: Row[Any], value: Any) -> int:
    return row.id if value == row.value else store.replace(row.kind, row.id, value)


# -- files ----------------------------------------------------------------------------------------------------


def bring_in(
    workspace: Workspace, file: Path, kind: str, queue: str = "", skip_bad: bool = False, base: str = ""
) -> dict[str, Any]:
    """Import an uploaded file for a base, all of it or nothing, and delete the upload; return what happened."""
    try:
        _check(file)
        # A connection of its own: the app's shall not wait for a long file.
        with workspace.store() as store:
            store.belong(base)
            return import_file(store, file, kind, queue=queue.strip() if kind == "prompts" else "", skip_bad=skip_bad)
    except DataError as error:
        # The person knows the file by its name, not by where the upload lies.
        raise DataError(str(error).replace(str(file), file.name)) from None
    finally:
        file.unlink(missing_ok=True)


def preview(file: Path, kind: str, skip_bad: bool = False) -> Imported:
    """Read an upload without importing it; the error names the file as the person knows it."""
    try:
        _check(file)
        return read_file(file, kind, skip_bad=skip_bad)
    except DataError as error:
        raise DataError(str(error).replace(str(file), file.name)) from None


def guess(file: Path) -> str:
    """Tell what an upload is most likely meant as; `prompts` for what will be refused anyway."""
    try:
        _check(file)
    except DataError:
        return "prompts"
    return guess_kind(file)


def _check(file: Path) -> None:
    """Refuse what is too large or of no known type, before anything reads it as a whole."""
    if file.suffix.lower() not in TYPES:
        raise DataError(f"{file.name} is of no known type; known: {', '.join(EXTENSIONS)} and .gz of them")
    size, most = file.stat().st_size, LARGEST
    with file.open("rb") as opened:
        packed = opened.read(2) == b"\x1f\x8b"
    if packed:
        size, most = _unpacked(file, LARGEST * UNPACKED), LARGEST * UNPACKED
    if size > most:
        what = "unpacked " if packed else ""
        how = "import it with `lorarlhf import` in a terminal, or in parts"
        raise DataError(f"{file.name} is too large: more than {most // 2**20} MB {what}are not taken here; {how}")


def _unpacked(file: Path, most: int) -> int:
    """Count what a compressed file unpacks to, no further than just past `most`."""
    size = 0
    try:
        with gzip.open(file) as opened:
            while size <= most and (piece := opened.read(2**20)):
                size += len(piece)
    except (OSError, EOFError):
        return 0  # torn: the import says so in better words
    return size


def bring_in_starter(workspace: Workspace, kind: str, base: str = "") -> dict[str, Any]:
    """Import the prompts or demonstrations that come with the starter base, for the base that is loaded."""
    with workspace.store() as store:
        store.belong(base)
        return import_file(store, shipped_file(kind), kind, queue="starter" if kind == "prompts" else "")


def bring_in_hub(workspace: Workspace, name: str, kind: str) -> dict[str, Any]:
    """Import a data set of the Hub, in a process of its own: the library that fetches it is heavy."""
    name = name.strip()
    if not HUB_NAME.fullmatch(name):
        raise DataError("name a data set of the Hub as owner/name, or owner/name:config")
    command = [sys.executable, "-m", "lorarlhf.cli", "import", name, "--as", kind, "--json"]
    command += ["--workspace", str(workspace.path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=HUB_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise DataError(f"{name} took longer than {HUB_SECONDS // 60} minutes; import it in a terminal") from None
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["the import failed"]
        raise DataError(said[-1].removeprefix("lorarlhf: "))
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def happened(found: dict[str, Any]) -> str:
    """Say in a sentence what an import did."""
    what = "rows" if found["kind"] == "all" else found["kind"]
    text = f"{found['file']}: {found['added']} {what if found['added'] != 1 else what[:-1]} added"
    notes = [("duplicates", "duplicates left out"), ("bad", "bad rows left out"), ("other", "rows of another kind")]
    return "; ".join([text, *(f"{found[key]} {words}" for key, words in notes if found.get(key))])


def take_out(workspace: Workspace, form: str, base: str = "") -> Path:
    """Write the votes in a form other programs read into the workspace's exports; return the file."""
    path = workspace.exports_dir / f"votes-{form}.{ENDINGS.get(form, 'jsonl')}"
    workspace.exports_dir.mkdir(parents=True, exist_ok=True)
    with workspace.store() as store:
        store.belong(base)
        write_votes(store, path, form, force=True)
    return path
