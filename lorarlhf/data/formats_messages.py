"""Conversations in the shapes people keep them in: message lists, from/value lists, Human/Assistant transcripts.

Everything here raises `RowError`, which names the field; whoever reads the file adds file and line.
"""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any, cast

from lorarlhf.errors import DataError
from lorarlhf.types import Message, Prompt

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


class RowError(DataError):
    """A row that cannot be imported."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"field {field} {problem}" if field else problem)


def shown(value: Any) -> str:
    """Show a value in an error: short, on one line."""
    text = "NaN" if isinstance(value, float) and math.isnan(value) else json.dumps(value, default=str)
    return text if len(text) <= 40 else text[:37] + "…"


def text_of(value: Any, field: str) -> str:
    """Take a text; blank ones are bad."""
    if not isinstance(value, str):
        raise RowError(field, f"should be text, not {shown(value)}")
    if not value.strip():
        raise RowError(field, "is empty")
    return whole(value, field)


def whole(value: str, field: str) -> str:
    """Refuse a text that no file or database can hold: JSON escapes can spell half a character."""
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise RowError(field, "holds half a character (a lone surrogate such as \\ud800)") from None
    return value


def is_transcript(text: str) -> bool:
    r"""Tell whether a text is a conversation with `\n\nHuman:` and `\n\nAssistant:` turns."""
    if text.startswith("\n\nHuman:"):
        return True
    return text.startswith("Human:") and "\n\nAssistant:" in text


def turns_of(value: Any, field: str) -> list[Message] | None:
    """Read a conversation in any shape; None where the value is a plain text."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, str):
        if is_transcript(value):
            return _transcript(value)
        value = written_messages(value, field)
        if value is None:
            return None
    if isinstance(value, (list, tuple)):
        return [_message(m, field, n) for n, m in enumerate(value, 1)]
    raise RowError(field, f"should be text or a list of messages, not {shown(value)}")


def as_prompt(turns: list[Message], field: str) -> Prompt:
    """Check that a conversation is one to be answered: not empty, and its last turn the user's."""
    if not turns:
        raise RowError(field, "has no messages")
    if turns[-1]["role"] != "user":
        raise RowError(field, f"should end with a user turn, not with the {turns[-1]['role']}'s")
    for message in turns:
        if message["role"] == "user":
            text_of(message["content"], field)
    return tuple(turns)


def question_of(turns: list[Message], field: str) -> Prompt:
    """Take what was asked: the conversation without the answer at its end."""
    while turns and turns[-1]["role"] == "assistant":
        turns = turns[:-1]
    return as_prompt(turns, field)


def split_answer(turns: list[Message], field: str) -> tuple[Prompt, str]:
    """Cut a conversation into the prompt and the answer at its end."""
    if not turns or turns[-1]["role"] != "assistant":
        raise RowError(field, "should end with an assistant turn, the answer to learn")
    return as_prompt(turns[:-1], field), text_of(turns[-1]["content"], field)


def answer_of(value: Any, field: str) -> str:
    """Take one answer: a text, or a message list that holds a single assistant turn."""
    turns = turns_of(value, field) if not isinstance(value, str) or written_messages(value, field) else None
    if turns is None:
        return text_of(value, field)
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        raise RowError(field, "should hold a single assistant turn")
    return text_of(turns[0]["content"], field)


def split_shared(one: list[Message], other: list[Message], fields: tuple[str, str]) -> tuple[Prompt, str, str]:
    """Cut two conversations that differ in their last turn into the shared prompt and both answers."""
    for turns, field in zip((one, other), fields, strict=True):
        if not turns or turns[-1]["role"] != "assistant":
            raise RowError(field, "should end with an assistant turn, the answer")
    if one[:-1] != other[:-1]:
        raise RowError(fields[1], f"differs from {fields[0]} before its last turn; only last turns can be compared")
    prompt = as_prompt(one[:-1], fields[0])
    return prompt, text_of(one[-1]["content"], fields[0]), text_of(other[-1]["content"], fields[1])


def _transcript(text: str) -> list[Message]:
    parts = _TURN.split(text)
    # The pattern has one group, so the parts alternate: text before the first turn (none here), name, text, …
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [_new("user" if name == "Human" else "assistant", content.strip()) for name, content in pairs]


_WRITTEN = re.compile(r"\s*(?:array\(\s*)?\[\s*\{\s*['\"](?:role|content|from|value)['\"]\s*:")
"""How a list of messages begins that a table or another text holds."""


def looks_written(text: str) -> bool:
    """Tell whether a text begins as a written list of messages."""
    return bool(_WRITTEN.match(text))


def written_messages(text: str, field: str) -> list[Any] | None:
    """Read a list of messages written as JSON, or as Python or NumPy print it; None if the text is something else.

    Raise `RowError` where it begins as one and cannot be read: as a text it would teach brackets and quotes.
    """
    if not looks_written(text):
        return None
    inner = re.sub(r",\s*dtype=object\s*\)\s*\Z", "", re.sub(r"\A\s*array\(", "", text)).strip()
    # NumPy puts line breaks where lists have commas.
    for read, written in ((json.loads, inner), (ast.literal_eval, re.sub(r"\}\s*\n\s*\{", "}, {", inner))):
        try:
            value = read(written)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and all(isinstance(message, dict) for message in value):
            return value
    raise RowError(field, "looks like a list of messages, but is neither whole JSON nor Python; save it as JSON")


def _message(value: Any, field: str, number: int) -> Message:
    if not isinstance(value, dict):
        raise RowError(field, f"message {number} should be an object with role and content, not {shown(value)}")
    role, content = value.get("role", value.get("from")), value.get("content", value.get("value"))
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise RowError(field, f"message {number} has the unknown role {shown(role)}; known: user, assistant, system")
    if isinstance(content, list):
        content = _joined(content, field, number)
    if not isinstance(content, str):
        raise RowError(field, f"message {number} should have text as its content, not {shown(content)}")
    return _new(ROLES[role.lower()], whole(content, field))


def _joined(parts: list[Any], field: str, number: int) -> str:
    """Join a content given as parts; pictures and sound are bad."""
    if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in parts):
        raise RowError(field, f"message {number} holds something other than text")
    return "".join(part["text"] for part in parts)


def _new(role: str, content: str) -> Message:
    return cast(Message, {"role": role, "content": content})
