"""Our own form: one JSON object per row that holds everything the store holds, so that it comes back the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lorarlhf.data.formats_messages import RowError, shown, whole
from lorarlhf.data.formats_optional import outcome_of
from lorarlhf.store import KINDS, Row, Vote
from lorarlhf.types import Comparison, Demonstration, Message, Origin, Prompt, Ranking

MARK = "lorarlhf"
VERSION = 1


@dataclass(frozen=True)
class Stored:
    """What the store knew about a row of a lossless file."""

    kind: str
    id: int
    created: str
    queue: str
    undone: str
    replaced_by: int | None
    base: str = ""


def to_record(row: Row[Any]) -> dict[str, Any]:
    """Give a row as one JSON object."""
    record: dict[str, Any] = {MARK: VERSION, "kind": row.kind, "id": row.id, "created": row.created}
    if row.kind == "prompts":
        record |= {"prompt": row.value, "queue": row.queue}
    else:
        record |= asdict(row.value)
    if row.base:
        record["base"] = row.base
    if row.undone:
        record |= {"undone": row.undone, "replaced_by": row.replaced_by}
    return record


def from_record(record: Mapping[str, Any]) -> tuple[Vote, Stored]:
    """Make a row again; raise `RowError` for what cannot have come from us."""
    if record[MARK] != VERSION:
        raise RowError(MARK, f"says version {shown(record[MARK])}; this program reads {VERSION}: upgrade it")
    kind = _get(record, "kind", _text)
    if kind not in KINDS:
        raise RowError("kind", f"should be one of {', '.join(KINDS)}, not {shown(kind)}")
    stored = Stored(
        kind=kind,
        id=_get(record, "id", _whole),
        created=_get(record, "created", _text),
        queue=_text(record.get("queue", ""), "queue"),
        undone=_text(record.get("undone", ""), "undone"),
        replaced_by=_or_none(_whole)(record.get("replaced_by"), "replaced_by"),
        base=_text(record.get("base", ""), "base"),
    )
    return _value(kind, record), stored


def _value(kind: str, record: Mapping[str, Any]) -> Vote:
    prompt = _get(record, "prompt", _prompt)
    if kind == "prompts":
        return prompt
    origin = _origin(_get(record, "origin", _object))
    if kind == "demonstrations":
        return Demonstration(prompt, _get(record, "response", _text), origin)
    if kind == "rankings":
        completions, ranks = _get(record, "completions", _texts), _get(record, "ranks", _wholes)
        if len(completions) != len(ranks):
            raise RowError("ranks", f"has {len(ranks)} numbers for {len(completions)} answers")
        return Ranking(prompt, completions, ranks, origin)
    left = _get(record, "left", _text)
    if left not in ("a", "b"):
        raise RowError("left", f"should be a or b, not {shown(left)}")
    criteria = _get(record, "criteria", _object)
    return Comparison(
        prompt=prompt,
        a=_get(record, "a", _text),
        b=_get(record, "b", _text),
        outcome=outcome_of({"outcome": _get(record, "outcome", _text)}, "outcome"),
        strength=_get(record, "strength", _whole),
        left="a" if left == "a" else "b",
        criteria={_text(name, "criteria"): outcome_of(criteria, name) for name in criteria},
        reasons=_get(record, "reasons", _texts),
        repeats=_get(record, "repeats", _or_none(_whole)),
        origin=origin,
    )


def _origin(fields: Mapping[str, Any]) -> Origin:
    def get(name: str, read: Callable[[Any, str], Any]) -> Any:
        if name not in fields:
            raise RowError(f"origin.{name}", "is missing")
        return read(fields[name], f"origin.{name}")

    return Origin(
        rater=get("rater", _text),
        round=get("round", _whole),
        source=get("source", _text),
        seconds=get("seconds", _or_none(_number)),
        adapters=get("adapters", _texts),
        adapter_hashes=get("adapter_hashes", _texts),
        sampling=get("sampling", _object),
        note=get("note", _text),
    )


def _get(record: Mapping[str, Any], field: str, read: Callable[[Any, str], Any]) -> Any:
    if field not in record:
        raise RowError(field, "is missing")
    return read(record[field], field)


def _text(value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise RowError(field, f"should be text, not {shown(value)}")
    return whole(value, field)


def _number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise RowError(field, f"should be a number, not {shown(value)}")
    return value


def _whole(value: Any, field: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise RowError(field, f"should be a whole number, not {shown(value)}")
    return value


def _object(value: Any, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RowError(field, f"should be an object, not {shown(value)}")
    return value


def _list(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise RowError(field, f"should be a list, not {shown(value)}")
    return value


def _texts(value: Any, field: str) -> tuple[str, ...]:
    return tuple(_text(item, field) for item in _list(value, field))


def _wholes(value: Any, field: str) -> tuple[int, ...]:
    return tuple(_whole(item, field) for item in _list(value, field))


def _prompt(value: Any, field: str) -> Prompt:
    turns = []
    for turn in _list(value, field):
        role = _text(_get(_object(turn, field), "role", _text), field)
        if role not in ("system", "user", "assistant"):
            raise RowError(field, f"has the unknown role {shown(role)}")
        content = _get(turn, "content", _text)
        turns.append(Message(role=role, content=content))  # type: ignore[typeddict-item]
    if not turns:
        raise RowError(field, "has no messages")
    return tuple(turns)


def _or_none(read: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, field: None if value is None else read(value, field)
