"""The columns a vote may carry besides prompt and answers: verdict, strength, criteria, rater and so on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from lorarlhf.data.formats_messages import RowError, shown, whole
from lorarlhf.types import Origin, Outcome

OUTCOMES = {
    "a": Outcome.A,
    "model_a": Outcome.A,
    "response_a": Outcome.A,
    "b": Outcome.B,
    "model_b": Outcome.B,
    "response_b": Outcome.B,
    "tie": Outcome.TIE,
    "both_bad": Outcome.BOTH_BAD,
    "bothbad": Outcome.BOTH_BAD,
    "tie_(bothbad)": Outcome.BOTH_BAD,
    "tie_(both_bad)": Outcome.BOTH_BAD,
    "skip": Outcome.SKIP,
}
MAX_STRENGTH = 5


def outcome_of(row: Mapping[str, Any], field: str) -> Outcome:
    """Read a verdict in any of the field's spellings."""
    value = row[field]
    known = OUTCOMES.get("_".join(value.lower().split())) if isinstance(value, str) else None
    if known is None:
        raise RowError(field, f"should be a, b, tie, both_bad or skip, not {shown(value)}")
    return known


def number_of(value: Any, field: str) -> float:
    """Read a number, also one written as text as in a CSV cell; NaN and infinity are bad."""
    try:
        number = float(value) if isinstance(value, (int, float, str)) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(field, f"should be a number, not {shown(value)}")
    return number


def list_of(value: Any, field: str) -> list[Any]:
    """Read a list, also one written as JSON in a CSV cell."""
    if isinstance(value, str):
        value = _from_json(value)
    if not isinstance(value, (list, tuple)):
        raise RowError(field, "should be a list")
    return list(value)


def optional_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Read what a comparison may carry, as keyword arguments of `Comparison`.

    Only a row with a verdict of ours, `outcome`, is held to our meaning of these names; elsewhere a column that happens
    to be called `left` or `reasons` is left alone.
    """
    found: dict[str, Any] = {}
    if "strength" in row:
        found["strength"] = _whole_number(row, "strength", 1, MAX_STRENGTH)
    elif "margin" in row:
        margin = number_of(row["margin"], "margin")
        # Some margins are steps on a scale, some are differences of scores; only steps are a strength.
        if margin == int(margin) and 1 <= margin <= MAX_STRENGTH:
            found["strength"] = int(margin)
    row = row if "outcome" in row else _ours(row)
    if "left" in row:
        found["left"] = _side(row)
    if "criteria" in row:
        found["criteria"] = _criteria(row["criteria"])
    if "reasons" in row:
        found["reasons"] = _texts(row, "reasons")
    return found


def origin_of(row: Mapping[str, Any]) -> Origin:
    """Read who said it, when and about what."""
    row = row if "outcome" in row else _ours(row)
    rater = row.get("rater", row.get("judge", ""))
    seconds = number_of(row["seconds"], "seconds") if "seconds" in row else None
    return Origin(
        rater=_short_text(rater, "rater"),
        round=_whole_number(row, "round", 0, 2**31) if "round" in row else 0,
        seconds=seconds,
        adapters=_texts(row, "adapters"),
        note=_short_text(row.get("note", ""), "note"),
    )


_READERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "left": lambda row: _side(row),
    "criteria": lambda row: _criteria(row["criteria"]),
    "reasons": lambda row: _texts(row, "reasons"),
    "rater": lambda row: _short_text(row["rater"], "rater"),
    "judge": lambda row: _short_text(row["judge"], "judge"),
    "round": lambda row: _whole_number(row, "round", 0, 2**31),
    "seconds": lambda row: number_of(row["seconds"], "seconds"),
    "adapters": lambda row: _texts(row, "adapters"),
    "note": lambda row: _short_text(row["note"], "note"),
}


def _ours(row: Mapping[str, Any]) -> dict[str, Any]:
    """Take the columns of our names that hold what we mean by them; only those count as read."""
    found = {}
    for name, read in _READERS.items():
        plain = dict(row)
        if name not in plain:
            continue
        try:
            read(plain)
        except RowError:
            continue
        found[name] = row[name]
    return found


def _side(row: Mapping[str, Any]) -> str:
    if row["left"] not in ("a", "b"):
        raise RowError("left", f"should be a or b, not {shown(row['left'])}")
    return str(row["left"])


def _whole_number(row: Mapping[str, Any], field: str, low: int, high: int) -> int:
    number = number_of(row[field], field)
    if number != int(number) or not low <= number <= high:
        raise RowError(field, f"should be a whole number from {low} to {high}, not {shown(row[field])}")
    return int(number)


def _short_text(value: Any, field: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # raters are often numbered
    if not isinstance(value, str):
        raise RowError(field, f"should be text, not {shown(value)}")
    return whole(value, field)


def _texts(row: Mapping[str, Any], field: str) -> tuple[str, ...]:
    if field not in row:
        return ()
    return tuple(_short_text(item, field) for item in list_of(row[field], field))


def _criteria(value: Any) -> dict[str, Outcome]:
    found = _from_json(value) if isinstance(value, str) else value
    if not isinstance(found, dict):
        raise RowError("criteria", f'should be an object such as {{"helpful": "a"}}, not {shown(value)}')
    # Parquet gives every row every criterion of the file, absent ones as null.
    given = {whole(name, "criteria"): {"criteria": said} for name, said in found.items() if said is not None}
    return {name: outcome_of(said, "criteria") for name, said in given.items()}


def _from_json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
