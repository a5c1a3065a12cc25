"""What a person chose for rating: declared once, checked, kept in the workspace. Knows nothing of Gradio."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from lorarlhf.errors import SettingsError
from lorarlhf.settings import Settings, knob
from lorarlhf.store import Store

META = "rating"
"""Name in the workspace under which the choices are kept."""
CRITERIA = ("helpful", "harmless", "honest")
"""Offered to everybody; own ones are added to them."""
REASONS = (
    "more correct",
    "follows the instruction",
    "clearer",
    "right length",
    "kinder tone",
    "safer",
    "fewer inventions",
    "better formatting",
)
MOST_CRITERIA, LONGEST_NAME = 8, 40


class Preferences(Settings):
    """How pairs are made, and what is asked about them."""

    source: Literal["", "failures", "chat", "typed", "queue", "everyday", "starter"] = knob(
        "", "Where prompts come from; empty: what suits"
    )
    answers: int = knob(2, "Answers to a prompt: 2 are compared, more are ranked", ge=2, le=6)
    first: str = knob("", "Adapter that answers; empty takes the newest policy, 'base' none")
    second: str = knob("", "Adapter of every other answer; empty takes the same")
    temperature: float | None = knob(None, "Randomness of answers; empty takes what suits the base", ge=0, le=5)
    max_new_tokens: int | None = knob(None, "Longest answer, in tokens; empty takes what suits", ge=1, le=32768)
    criteria: tuple[str, ...] = knob((), "What is asked besides the verdict")
    own: tuple[str, ...] = knob((), "Criteria the person added to the list")
    reasons: bool = knob(False, "Offer a list of reasons")
    note: bool = knob(False, "Offer a note")
    rater: str = knob("", "Name of the person who rates", max_length=LONGEST_NAME)
    repeats: bool = knob(True, "Ask about one pair in twenty again, sides swapped")

    @field_validator("criteria", "own")
    @classmethod
    def _few_and_short(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in names if name.strip()))
        if len(names) > MOST_CRITERIA or any(len(name) > LONGEST_NAME for name in names):
            raise ValueError(f"at most {MOST_CRITERIA} criteria of {LONGEST_NAME} letters each")
        return names


def load_preferences(store: Store) -> Preferences:
    """Read what the person chose last; what a newer or older program wrote and this one refuses is left out."""
    kept: dict[str, Any] = store.get_meta(META, {})
    try:
        return Preferences.parse({name: kept[name] for name in Preferences.model_fields if name in kept}, "rating")
    except SettingsError:
        return Preferences()


def save_preferences(store: Store, chosen: Preferences) -> None:
    """Keep what the person chose."""
    store.set_meta(META, chosen.model_dump(mode="json", exclude_defaults=True))
