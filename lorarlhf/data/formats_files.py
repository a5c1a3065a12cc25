"""Files as rows of fields, each with the place it came from. Knows file types and nothing of votes.

Lines are counted as an editor counts them, from 1; JSON arrays and Parquet have rows, also from 1. A line that
cannot be read is a row too, with the problem in place of its fields, so that all bad lines are found in one go.
"""

from __future__ import annotations

import csv
import difflib
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lorarlhf.data.formats_messages import looks_written
from lorarlhf.errors import DataError

EXTENSIONS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".txt")
CSV_COLUMNS = (
    *("id", "created", "prompt", "a", "b", "outcome", "strength", "left", "criteria", "reasons"),
    *("rater", "round", "seconds", "adapters", "note"),
)
"""Columns of the CSV we write."""
MAGIC = {
    b"PK\x03\x04": "is a spreadsheet or zip archive; save it as CSV first",
    b"SQLite format 3": "is a database; export it from its program first",
    b"%PDF": "is a PDF; save its text first",
    b"BZh": "is compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "is compressed with xz; unpack it first",
    b"(\xb5/\xfd": "is compressed with zstd; unpack it first",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
}


@dataclass(frozen=True)
class RawRow:
    """One row before anybody has looked at its fields."""

    where: str
    """`line 3` or `row 3`."""
    fields: dict[str, Any] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class RawFile:
    """The rows of one file, and how many they are if that is known before reading."""

    name: str
    rows: Iterator[RawRow]
    total: int | None


def open_file(path: Path, kind: str) -> RawFile:
    """Open a file of any known type; raise `DataError` for what is not one."""
    if path.is_dir():
        if any((path / name).exists() for name in ("state.json", "dataset_dict.json")):
            return _saved_to_disk(path)
        raise DataError(f"{path} is a folder; name one file in it{_example(path)}")
    if not path.exists():
        raise DataError(f"{path} does not exist{_nearest(path)}")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    if data[:2] == b"\x1f\x8b" or path.suffix == ".gz":
        data = _gunzip(data, path)
    inside = path.with_suffix("") if path.suffix == ".gz" else path
    if data[:4] == b"PAR1":
        return _parquet(data, path)
    for magic, advice in MAGIC.items():
        if data.startswith(magic):
            raise DataError(f"{path} {advice}")
    data = data.removeprefix(b"\xef\xbb\xbf")
    if not data.strip():
        raise DataError(f"{path} is empty; nothing to import")
    if b"\0" in data:
        if inside.suffix == ".parquet":
            raise DataError(f"{path} is damaged: it does not begin as a Parquet file does; write it again")
        raise DataError(f"{path} is not a text file; known types: {', '.join(EXTENSIONS)} and .gz of them")
    return _open_text(data, path, inside.suffix.lower(), kind)


def _open_text(data: bytes, path: Path, suffix: str, kind: str) -> RawFile:
    if suffix in (".csv", ".tsv"):
        return RawFile(path.name, _csv(_decode(data, path), path, "\t" if suffix == ".tsv" else ","), None)
    start = data.lstrip()[:1]
    if suffix in (".jsonl", ".ndjson") or (suffix != ".txt" and start == b"{" and _first_line_is_whole(data)):
        lines = data.split(b"\n")
        return RawFile(path.name, _jsonl(lines), len(lines))
    if suffix == ".json" or (suffix != ".txt" and start in (b"{", b"[")):
        rows = _json_rows(_decode(data, path), path)
        return RawFile(path.name, (_raw(row, f"row {n}") for n, row in enumerate(rows, 1)), len(rows))
    if suffix == ".parquet":
        raise DataError(f"{path} is not a Parquet file, or is cut off")
    if kind != "prompts":
        raise DataError(f"{path}: plain text can only be imported as prompts; {kind} need fields, e.g. JSONL")
    lines = data.split(b"\n")
    return RawFile(path.name, _text_lines(lines), len(lines))


def _first_line_is_whole(data: bytes) -> bool:
    """Tell JSONL in a file called .json from JSON: its first line is a row by itself and more follow."""
    line, _, rest = data.lstrip().partition(b"\n")
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return bool(rest.strip())


def _decode(data: bytes, path: Path) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: {_not_utf8(error)}") from None


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"


def _gunzip(data: bytes, path: Path) -> bytes:
    try:
        return gzip.decompress(data)
    except EOFError:
        raise DataError(f"{path} is cut off: the compressed data ends early; download or copy it again") from None
    except (OSError, zlib.error) as error:
        raise DataError(f"{path} is not a whole gzip file: {error}") from None


def _raw(value: Any, where: str) -> RawRow:
    if isinstance(value, dict):
        return RawRow(where, value)
    if isinstance(value, str):
        return RawRow(where, {"prompt": value})  # a list of plain texts is a list of prompts
    return RawRow(where, problem=f"should be an object with fields, not {json.dumps(value)[:40]}")


def _jsonl(lines: list[bytes]) -> Iterator[RawRow]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            value = json.loads(line.decode(), object_pairs_hook=_once)
        except UnicodeDecodeError as error:
            yield RawRow(where, problem=_not_utf8(error))
        except json.JSONDecodeError as error:
            yield RawRow(where, problem=f"column {error.colno}: not JSON: {_lower(error.msg)}")
        except (ValueError, RecursionError) as error:
            yield RawRow(where, problem=f"not usable JSON: {error}")
        else:
            yield _raw(value, where)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object, but of no doubled keys: one of the two would win without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)} is there twice")
    return found


def _json_rows(text: str, path: Path) -> list[Any]:
    try:
        value = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}, column {error.colno}: not JSON: {_lower(error.msg)}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not usable JSON: {error}") from None
    if isinstance(value, dict):
        tables = [v for name, v in value.items() if name in ("data", "rows", "train", "examples", "instances")]
        value = tables[0] if len(tables) == 1 and isinstance(tables[0], list) else [value]
    if not isinstance(value, list):
        raise DataError(f"{path} should hold a list of rows, not {json.dumps(value)[:40]}")
    if not value:
        raise DataError(f"{path} is empty; nothing to import")
    return value


def _lower(message: str) -> str:
    return message[0].lower() + message[1:]


def _text_lines(lines: list[bytes]) -> Iterator[RawRow]:
    for number, line in enumerate(lines, 1):
        try:
            text = line.decode().strip()
        except UnicodeDecodeError as error:
            yield RawRow(f"line {number}", problem=_not_utf8(error))
            continue
        if text:
            yield RawRow(f"line {number}", {"prompt": text})


def _delimiter_of(text: str, usual: str) -> tuple[str, str]:
    """Find what separates the cells → the delimiter, and the text without a line `sep=` as Excel writes it."""
    first, _, rest = text.partition("\n")
    if first.strip().lower().startswith("sep=") and len(first.strip()) == 5:
        return first.strip()[4], "\n" + rest  # lines count as they stand in the file
    others = {mark: first.count(mark) for mark in (";", "\t", ",") if mark != usual}
    likely = max(others, key=others.__getitem__)
    return (likely if usual not in first and others[likely] else usual), text


def _csv(text: str, path: Path, usual: str) -> Iterator[RawRow]:
    csv.field_size_limit(2**31 - 1)  # the default of 128 KiB cuts off long conversations
    delimiter, text = _delimiter_of(text, usual)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    header: list[str] = []
    start = 1
    try:
        for cells in reader:
            where, start = f"line {start}", reader.line_num + 1
            if not any(cell.strip() for cell in cells):
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                doubled = {name for name in header if name and header.count(name) > 1}
                if doubled:
                    raise DataError(f"{path}, {where}: column {sorted(doubled)[0]} is there twice")
            elif len(cells) != len(header):
                yield RawRow(where, problem=f"has {len(cells)} cells, but the header has {len(header)} columns")
            else:
                pairs = zip(header, cells, strict=True)
                ours = tuple(header) == CSV_COLUMNS
                yield RawRow(where, {name: _cell(name, cell, ours) for name, cell in pairs if name and cell.strip()})
    except csv.Error as error:
        raise DataError(f"{path}, line {start}: not CSV: {error}") from None


def _cell(name: str, cell: str, ours: bool) -> Any:
    """Read a cell. In our own files ' is a guard, and an answer is a text whatever it looks like."""
    text = unguard(cell) if ours else cell
    answer = ours and name in ("a", "b") and looks_written(text)
    return [{"role": "assistant", "content": text}] if answer else text


_GUARDED = re.compile(r"'+[=+\-@\t\r]")


def guard(cell: str) -> str:
    """Keep a spreadsheet from running a cell as a formula: a leading ' makes it text; `unguard` takes it away."""
    return f"'{cell}" if re.match(r"'*[=+\-@\t\r]", cell) else cell


def unguard(cell: str) -> str:
    """Undo `guard`."""
    return cell[1:] if _GUARDED.match(cell) else cell


def _parquet(data: bytes, path: Path) -> RawFile:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data))
        total = table.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole Parquet file: {_one_line(error)}") from None
    if not total:
        raise DataError(f"{path} is empty; nothing to import")
    return RawFile(path.name, _parquet_rows(table, path), total)


def _parquet_rows(table: Any, path: Path) -> Iterator[RawRow]:
    import pyarrow

    number = 0
    try:
        for batch in table.iter_batches(1024):
            for fields in batch.to_pylist():
                number += 1
                yield RawRow(f"row {number}", fields)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}, after row {number}: damaged Parquet: {_one_line(error)}") from None


def _saved_to_disk(path: Path) -> RawFile:
    """Open a folder that `save_to_disk` of datasets wrote: its train split if it has one."""
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # Arrow, JSON and file errors of any kind end in the same words
        raise DataError(f"{path} cannot be read as a saved data set ({_one_line(error)}); save it again") from error
    split = ("train" if "train" in found else next(iter(found))) if isinstance(found, datasets.DatasetDict) else ""
    rows = found[split] if split else found
    name = f"{path.name} ({split})" if split else path.name
    return RawFile(name, (RawRow(f"row {n}", dict(row)) for n, row in enumerate(rows, 1)), len(rows))


def open_hub(name: str) -> RawFile:
    """Open a data set of the Hub by `owner/name` or `owner/name:config`, its train split if it has one."""
    import datasets

    repo, _, config = name.partition(":")
    try:
        splits = datasets.load_dataset(repo, config or None)
    # Whatever goes wrong out there (network, login, names, scripts) ends in the same words for the person.
    except Exception as error:
        raise DataError(
            f"{name} is no file here, and the Hub gave no data set of that name ({_one_line(error)}); "
            "check the spelling and the network, or download the file and name it"
        ) from error
    chosen = "train" if "train" in splits else next(iter(splits))
    rows = splits[chosen]
    total = len(rows) if isinstance(rows, Sized) else None
    return RawFile(f"{name} ({chosen})", (RawRow(f"row {n}", dict(row)) for n, row in enumerate(rows, 1)), total)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:157] + "…"


def _nearest(path: Path) -> str:
    folder = path.parent
    if not folder.is_dir():
        return f": there is no folder {folder}"
    near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1)
    return f"; did you mean {near[0]}?" if near else f" in {folder.absolute()}"


def _example(folder: Path) -> str:
    files = sorted(p.name for p in folder.iterdir() if p.suffixes and p.suffixes[0] in EXTENSIONS)
    return f", e.g. {files[0]}" if files else ""
