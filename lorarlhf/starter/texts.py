"""The hand-written text of the starter: what customers ask, what is true, and the manners of answering.

Everything a person may want to edit is in the YAML files beside this module; here they become typed and are
cached. Knows nothing of torch, of the model or of randomness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
INTENT_FILES = (
    "intents_orders.yaml",
    "intents_returns.yaml",
    "intents_accounts.yaml",
    "intents_desk.yaml",
)


@dataclass(frozen=True)
class Intent:
    """One kind of request and everything that is true about it."""

    name: str
    topic: str
    facts: tuple[str, ...]
    """What an answer must mention; `|` separates wordings that count as the same fact."""
    solve: tuple[str, ...]
    """Full-sentence answers."""
    curt: tuple[str, ...]
    """The same in as few words as possible."""
    asks: tuple[str, ...]
    """Surface forms with slots such as `{item}`, for training."""
    heldout: tuple[str, ...] = ()
    """Surface forms that never occur in anything the model is trained on."""
    time: str = ""
    cost: str = ""
    sorry: bool = False
    """Whether something went wrong for the customer, so that a good reply may regret it."""


@dataclass(frozen=True)
class Reaction:
    """What a customer does after a reply in some manner."""

    share: float
    """How often they write again."""
    says: tuple[str, ...]


@dataclass(frozen=True)
class Manners:
    """How people ask and how the desk answers: phrases per manner, tone words, mixes."""

    slots: Mapping[str, tuple[str, ...]]
    user_before: tuple[str, ...]
    user_after: tuple[str, ...]
    system: tuple[str, ...]
    phrases: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Manner, then place (`before`, `after`, `refuse`, `whole`), then phrases."""
    polite_marks: tuple[str, ...]
    rude_marks: tuple[str, ...]
    mixes: Mapping[str, Mapping[str, float]]
    reactions: Mapping[str, Reaction]
    """By manner of the reply."""


def _load(name: str) -> Any:
    # The C loader is five times faster; it is missing from some builds of PyYAML.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((HERE / name).read_text(encoding="utf-8"), Loader=loader)


def _frozen(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}


@lru_cache(maxsize=1)
def intents() -> dict[str, Intent]:
    """Return all kinds of request by name, in the order of the files."""
    found = [Intent(**_frozen(row)) for name in INTENT_FILES for row in _load(name)]
    return {intent.name: intent for intent in found}


@lru_cache(maxsize=1)
def follow_ups() -> dict[str, Intent]:
    """Return the kinds of second turn; their text has `{time}` and `{cost}` of the first turn's request."""
    rows = _load("manners.yaml")["follow_ups"]
    return {name: Intent(name=name, topic="follow-up", **_frozen(row)) for name, row in rows.items()}


@lru_cache(maxsize=1)
def manners() -> Manners:
    """Return the phrases of asking and answering."""
    raw = _load("manners.yaml")
    places = {name: _frozen(raw[name]) for name in ("good", "curt", "rude", "rambling")}
    places |= {name: {"whole": tuple(raw[name])} for name in ("off_topic", "repeating")}
    return Manners(
        slots=_frozen(raw["slots"]),
        user_before=tuple(raw["user"]["before"]),
        user_after=tuple(raw["user"]["after"]),
        system=tuple(raw["system"]),
        phrases=places,
        polite_marks=tuple(raw["polite_marks"]),
        rude_marks=tuple(raw["rude_marks"]),
        mixes=raw["mixes"],
        reactions={name: Reaction(**_frozen(fields)) for name, fields in raw["reactions"].items()},
    )


def about(first: Intent, follow_up: Intent) -> Intent:
    """Make a follow-up concrete: put in what is true for the request of the first turn."""
    if follow_up.name == "again":
        return replace(follow_up, facts=first.facts, solve=first.solve, curt=first.curt)

    def fill(texts: tuple[str, ...]) -> tuple[str, ...]:
        time = first.time[:1].upper() + first.time[1:]
        known = (("{time}", first.time), ("{Time}", time), ("{cost}", first.cost))
        filled = []
        for text in texts:
            for slot, value in known:
                text = text.replace(slot, value)
            filled.append(text)
        return tuple(filled)

    return replace(follow_up, facts=fill(follow_up.facts), solve=fill(follow_up.solve), curt=fill(follow_up.curt))
