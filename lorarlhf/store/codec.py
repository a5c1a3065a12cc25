"""Votes as table columns and back; what makes two votes the same. Writes no SQL."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from typing import Any

from lorarlhf.errors import StoreError
from lorarlhf.types import Comparison, Demonstration, Origin, Outcome, Prompt, Ranking, prompt_key

# One encoder for all: `json.dumps` makes a new one for every call that is not plain.
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

Vote = Comparison | Ranking | Demonstration | Prompt

KINDS: tuple[str, ...] = ("comparisons", "rankings", "demonstrations", "prompts")
"""Names of the tables of votes, and of the kinds of row everywhere."""


def kind_of(value: Vote) -> str:
    """Name the table a value belongs to."""
    names: dict[type, str] = {Comparison: "comparisons", Ranking: "rankings", Demonstration: "demonstrations"}
    return names.get(type(value), "prompts")


def prompt_of(value: Vote) -> Prompt:
    """Give the prompt of any kind of value."""
    return value if isinstance(value, tuple) else value.prompt


def fingerprint(value: Vote) -> str:
    """Name what was said, so that the same thing said twice is found: 16 hex digits.

    Same prompt, answers, verdict and rater are the same, whichever answer is called a; strength, time and notes
    do not matter.
    """
    parts: list[Any]
    if isinstance(value, Comparison):
        said = Outcome(value.outcome)
        parts = min([value.a, value.b, said.value], [value.b, value.a, said.swap().value])
        parts.append(value.origin.rater)
    elif isinstance(value, Ranking):
        parts = [sorted(zip(value.completions, value.ranks, strict=True)), value.origin.rater]
    elif isinstance(value, Demonstration):
        parts = [value.response]
    else:
        parts = []
    text = dump([prompt_key(prompt_of(value)), *parts])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def dump(value: Any) -> str:
    """Write JSON as it is stored: readable to other tools, nothing escaped needlessly."""
    try:
        return _to_json(value)
    except (TypeError, ValueError) as error:
        raise StoreError(f"cannot be stored as JSON: {error}") from error


def encode(value: Vote) -> dict[str, Any]:
    """Give the columns of a value, without id, time, prompt and fingerprint."""
    if isinstance(value, Comparison):
        own: dict[str, Any] = {
            "a": value.a,
            "b": value.b,
            "outcome": Outcome(value.outcome).value,
            "strength": value.strength,
            "left_side": value.left,
            "criteria": dump({name: Outcome(outcome).value for name, outcome in value.criteria.items()}),
            "reasons": dump(value.reasons),
            "repeats": value.repeats,
        }
    elif isinstance(value, Ranking):
        own = {"completions": dump(value.completions), "ranks": dump(value.ranks)}
    elif isinstance(value, Demonstration):
        own = {"response": value.response}
    else:
        return {}
    return own | _encode_origin(value.origin)


def decode(kind: str, row: sqlite3.Row, prompt: Prompt) -> Any:
    """Make the value again from its columns and its prompt."""
    if kind == "prompts":
        return prompt
    origin = Origin(
        rater=row["rater"],
        round=row["round"],
        source=row["source"],
        seconds=row["seconds"],
        adapters=_tuple(row["adapters"]),
        adapter_hashes=_tuple(row["adapter_hashes"]),
        sampling=_dict(row["sampling"]),
        note=row["note"],
    )
    if kind == "rankings":
        return Ranking(prompt, _tuple(row["completions"]), _tuple(row["ranks"]), origin)
    if kind == "demonstrations":
        return Demonstration(prompt, row["response"], origin)
    return Comparison(
        prompt=prompt,
        a=row["a"],
        b=row["b"],
        outcome=Outcome(row["outcome"]),
        strength=row["strength"],
        left=row["left_side"],
        criteria={name: Outcome(outcome) for name, outcome in _dict(row["criteria"]).items()},
        reasons=_tuple(row["reasons"]),
        repeats=row["repeats"],
        origin=origin,
    )


# Most of these columns are empty in most rows; not parsing those halves the time of a list.
def _tuple(text: str) -> tuple[Any, ...]:
    return () if text == "[]" else tuple(json.loads(text))


def _dict(text: str) -> dict[str, Any]:
    return {} if text == "{}" else json.loads(text)


def _encode_origin(origin: Origin) -> dict[str, Any]:
    return {
        "rater": origin.rater,
        "round": origin.round,
        "source": origin.source,
        "seconds": origin.seconds,
        "adapters": dump(origin.adapters),
        "adapter_hashes": dump(origin.adapter_hashes),
        "sampling": dump(origin.sampling),
        "note": origin.note,
    }
