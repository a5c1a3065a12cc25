"""Write what people said to a file: whole and losslessly, or in the forms other trainers read."""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from lorarlhf.data.formats_files import CSV_COLUMNS, guard
from lorarlhf.data.formats_lossless import to_record
from lorarlhf.data.formats_messages import is_transcript, looks_written
from lorarlhf.errors import DataError
from lorarlhf.store import Row, Store
from lorarlhf.types import Comparison, Outcome, Prompt


def write_votes(store: Store, path: str | os.PathLike[str], format: str, *, force: bool = False) -> dict[str, Any]:
    """Write votes as one of `EXPORT_FORMATS`; return what was written, for `--json`. `.gz` names are compressed.

    The file is whole or absent. Raises `DataError` if it exists (unless `force`), cannot be written, or there is
    nothing to write.
    """
    if format not in EXPORT_FORMATS:
        near = difflib.get_close_matches(format, EXPORT_FORMATS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(EXPORT_FORMATS)}"
        raise DataError(f"there is no export format {format!r}; {hint}")
    target = Path(path).expanduser()
    if target.is_dir():
        raise DataError(f"{target} is a folder; name a file in it")
    if not target.parent.is_dir():
        raise DataError(f"{target}: there is no folder {target.parent}")
    if target.exists() and not force:
        raise DataError(f"{target} exists; choose another name, or overwrite it with --force")
    lines = list(EXPORT_FORMATS[format](store))
    header = 1 if format == "csv" else 0
    if len(lines) == header:
        raise DataError(f"this workspace holds nothing that can be written as {format}")
    _write(target, "".join(lines))
    return {"file": str(target), "format": format, "written": len(lines) - header}


def _write(target: Path, text: str) -> None:
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    data = gzip.compress(text.encode(), mtime=0) if target.suffix == ".gz" else text.encode()
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        aside.unlink(missing_ok=True)


def _json_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _lossless(store: Store) -> Iterator[str]:
    return (_json_line(to_record(row)) for row in store.history())


def _preference(store: Store) -> Iterator[str]:
    for row in store.comparisons():
        vote = row.value
        if vote.outcome in (Outcome.A, Outcome.B):
            better, worse = (vote.a, vote.b) if vote.outcome is Outcome.A else (vote.b, vote.a)
            yield _preference_line(vote.prompt, better, worse)
    for ranking in store.rankings():
        answers = zip(ranking.value.ranks, ranking.value.completions, strict=True)
        for one, other in combinations(sorted(answers, key=lambda pair: pair[0]), 2):
            if one[0] < other[0]:
                yield _preference_line(ranking.value.prompt, one[1], other[1])


def _preference_line(prompt: Prompt, chosen: str, rejected: str) -> str:
    return _json_line({"prompt": prompt, "chosen": [_answer(chosen)], "rejected": [_answer(rejected)]})


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _demonstrations(store: Store) -> Iterator[str]:
    for row in store.demonstrations():
        yield _json_line({"messages": [*row.value.prompt, _answer(row.value.response)]})


def _ranking(store: Store) -> Iterator[str]:
    for row in store.rankings():
        vote = row.value
        yield _json_line({"prompt": vote.prompt, "completions": vote.completions, "ranks": vote.ranks})


def _csv(store: Store) -> Iterator[str]:
    yield _csv_line(dict(zip(CSV_COLUMNS, CSV_COLUMNS, strict=True)))
    for row in store.comparisons():
        yield _csv_line(_csv_cells(row))


def _csv_cells(row: Row[Comparison]) -> dict[str, Any]:
    vote, origin = row.value, row.value.origin
    return {
        "id": row.id,
        "created": row.created,
        "prompt": _prompt_cell(vote.prompt),
        "a": vote.a,
        "b": vote.b,
        "outcome": vote.outcome.value,
        "strength": vote.strength,
        "left": vote.left,
        "criteria": _json_cell(vote.criteria),
        "reasons": _json_cell(vote.reasons),
        "rater": origin.rater,
        "round": origin.round,
        "seconds": "" if origin.seconds is None else origin.seconds,
        "adapters": _json_cell(origin.adapters),
        "note": origin.note,
    }


def _json_cell(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if value else ""


def _prompt_cell(prompt: Prompt) -> str:
    """Write a single user turn as its text, and as messages what would be read back as something else."""
    text = prompt[0]["content"]
    single = len(prompt) == 1 and prompt[0]["role"] == "user"
    misread = is_transcript(text) or looks_written(text)
    return text if single and not misread else json.dumps(prompt, ensure_ascii=False)


def _csv_line(cells: dict[str, Any]) -> str:
    buffer = io.StringIO(newline="")
    # No table and no reader takes the character 0.
    texts = [guard(str(cells[name])).replace("\0", "\ufffd") for name in CSV_COLUMNS]
    csv.writer(buffer, lineterminator="\n").writerow(texts)
    return buffer.getvalue()


EXPORT_FORMATS: dict[str, Callable[[Store], Iterator[str]]] = {
    "lossless": _lossless,
    "preference": _preference,
    "demonstrations": _demonstrations,
    "ranking": _ranking,
    "csv": _csv,
}
"""What `write_votes` writes, by name."""
