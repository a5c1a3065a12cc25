"""The words the whole program shares. Knows nothing of torch, SQL or settings.

Tensor names carry their shape as a suffix, everywhere:

    B  rows of a batch          Q  prompt (query) tokens     R  response tokens
    L  Q + R, whole sequence    T  tokens in a flat pack     V  vocabulary
    K  ranked answers           H  hidden size               N  sequences in a pack

A mask is named after what is True in it: `response_mask_BR` is True where a token counts in the loss.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Literal, TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


Prompt = tuple[Message, ...]
"""The conversation so far; ends with the turn that is to be answered."""

Side = Literal["a", "b"]


def user(text: str) -> Prompt:
    """Make the prompt of a single user turn."""
    return (Message(role="user", content=text),)


def plain(prompt: Prompt) -> str | list[Message]:
    """Write a prompt as shortly as it can be: its text where it is a single user turn, else its turns."""
    if len(prompt) == 1 and prompt[0]["role"] == "user":
        return prompt[0]["content"]
    return list(prompt)


def prompt_key(prompt: Iterable[Message]) -> str:
    """Name a prompt by its content: 16 hex digits, the same on every machine and in every release."""
    canonical = json.dumps([[m["role"], m["content"]] for m in prompt], ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def is_heldout(prompt: Iterable[Message], share: float = 0.1) -> bool:
    """Tell whether a prompt belongs to the held-out part, by a stable hash of its first user turn.

    The first turn decides for the whole conversation: a second turn repeats the first one word for word, so
    splitting them would leak. Surrounding blanks and case do not matter either.
    """
    digest = hashlib.sha256(split_key(prompt).encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def split_key(prompt: Iterable[Message]) -> str:
    """Give the text that decides on which side of the split a prompt stands: equal ones are never apart."""
    turns = list(prompt)
    first = next((m["content"] for m in turns if m["role"] == "user"), turns[0]["content"] if turns else "")
    return " ".join(first.lower().split())


def next_name(stage: str, taken: Iterable[str]) -> str:
    """Make up the name after the highest one taken: `ppo-1`, `ppo-2` …"""
    numbers = [int(found[1]) for name in taken if (found := re.fullmatch(rf"{stage}-(\d+)", name))]
    return f"{stage}-{max(numbers, default=0) + 1}"


class Outcome(str, Enum):
    """What a person said about two answers."""

    A = "a"
    B = "b"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    SKIP = "skip"

    def swap(self) -> Outcome:
        """Say the same with the answers exchanged."""
        return {Outcome.A: Outcome.B, Outcome.B: Outcome.A}.get(self, self)


@dataclass(frozen=True)
class Origin:
    """Where answers came from and who judged them; travels with every vote."""

    rater: str = ""
    round: int = 0
    source: str = "import"
    """`app`, `script`, `import` …"""
    seconds: float | None = None
    """Seconds the person took to decide."""
    adapters: tuple[str, ...] = ()
    """Adapter name per completion; the empty name is the bare base."""
    adapter_hashes: tuple[str, ...] = ()
    sampling: dict[str, Any] = field(default_factory=dict)
    """Sampling settings and seed the completions were drawn with."""
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt and what a person said about them."""

    prompt: Prompt
    a: str
    b: str
    outcome: Outcome
    strength: int = 1
    """1 better, 2 much better; meaningless for ties."""
    left: Side = "a"
    """Which answer stood on the left."""
    criteria: dict[str, Outcome] = field(default_factory=dict)
    """Outcome per named criterion, where the person gave some."""
    reasons: tuple[str, ...] = ()
    repeats: int | None = None
    """Row id of the earlier comparison this one asks again."""
    origin: Origin = field(default_factory=Origin)

    def swap(self) -> Comparison:
        """Exchange the answers without changing what was said."""
        return replace(
            self,
            a=self.b,
            b=self.a,
            outcome=self.outcome.swap(),
            left="b" if self.left == "a" else "a",
            criteria={name: outcome.swap() for name, outcome in self.criteria.items()},
            origin=replace(
                self.origin,
                adapters=self.origin.adapters[::-1],
                adapter_hashes=self.origin.adapter_hashes[::-1],
            ),
        )


@dataclass(frozen=True)
class Ranking:
    """K answers to one prompt in an order, ties allowed; stored whole, expanded to pairs per batch."""

    prompt: Prompt
    completions: tuple[str, ...]
    ranks: tuple[int, ...]
    """1 is best; equal numbers are ties; one per completion."""
    origin: Origin = field(default_factory=Origin)


@dataclass(frozen=True)
class Demonstration:
    """An answer worth imitating."""

    prompt: Prompt
    response: str
    origin: Origin = field(default_factory=Origin)
