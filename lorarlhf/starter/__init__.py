"""The small base model we ship, the recipe that made it, and the data to align it with.

Importing this is cheap: nothing here or in the rater knows torch. The recipe is `lorarlhf.starter.build`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorarlhf.errors import DataError
from lorarlhf.types import Demonstration, Message, Origin, Prompt

__all__ = ["MODEL_DIR", "prompts", "shipped_file", "transcripts"]

MODEL_DIR: Path = Path(__file__).parent / "model"
"""Folder of the weights and the tokenizer, for `from_pretrained`."""


def transcripts() -> list[Demonstration]:
    """Return past help-desk conversations of mixed tone: right about the job, not about the manners."""
    found = []
    for row in _rows("transcripts.jsonl"):
        *before, reply = _messages(row["messages"])
        origin = Origin(source="script", note="starter transcripts")
        found.append(Demonstration(prompt=tuple(before), response=reply["content"], origin=origin))
    return found


def prompts(heldout: bool = False) -> list[Prompt]:
    """Return requests to answer; held-out ones are worded as nothing the model was trained on."""
    name = "prompts_heldout.jsonl" if heldout else "prompts.jsonl"
    return [tuple(_messages(row["prompt"])) for row in _rows(name)]


def shipped_file(kind: str) -> Path:
    """Name the shipped file that holds demonstrations or prompts; raise `DataError` for anything else."""
    names = {"demonstrations": "transcripts.jsonl", "prompts": "prompts.jsonl"}
    if kind not in names:
        raise DataError(f"the starter comes with {' and '.join(names)}, not with {kind}; rate some answers instead")
    return MODEL_DIR.parent / names[kind]


def _rows(name: str) -> Iterator[dict[str, Any]]:
    with (MODEL_DIR.parent / name).open(encoding="utf-8") as lines:
        yield from (json.loads(line) for line in lines)


def _messages(raw: list[dict[str, Any]]) -> list[Message]:
    return [Message(role=m["role"], content=m["content"]) for m in raw]
