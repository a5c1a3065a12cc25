"""Rows as the field writes them, made into our values. Each format is one reader; each row finds its own.

A reader makes the richest value its row allows; `read_row` then takes from it what the person asked for: a
comparison also holds a prompt, and its better answer is a demonstration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lorarlhf.data.formats_messages import (
    RowError,
    answer_of,
    as_prompt,
    question_of,
    shown,
    split_answer,
    split_shared,
    text_of,
    turns_of,
)
from lorarlhf.data.formats_optional import list_of, number_of, optional_fields, origin_of, outcome_of
from lorarlhf.store import Vote, prompt_of
from lorarlhf.types import Comparison, Demonstration, Message, Outcome, Prompt, Ranking, user

Fields = Mapping[str, Any]

PROMPT_NAMES = ("prompt", "question", "query", "instruction")
PAIR_NAMES = tuple((f"{name}a", f"{name}b") for name in ("", "response_", "answer_", "completion_"))
WINNER_NAMES = ("outcome", "winner", "preference")
ANSWER_NAMES = ("completion", "response", "answer", "output")
LIST_NAMES = ("ranked", "completions", "responses", "answers")
RANK_NAMES = ("ranks", "rank", "ranking")
SCORE_NAMES = ("scores", "score", "ratings")
CONVERSATION_NAMES = ("messages", "conversations", "conversation")


@dataclass(frozen=True)
class Format:
    """How one format is recognised and read."""

    name: str
    needs: tuple[tuple[str, ...], ...]
    """One name of every group must be there."""
    read: Callable[[Fields], Vote]

    def missing(self, row: Fields) -> list[str]:
        """Name the groups a row lacks, each by its first name."""
        return [group[0] for group in self.needs if first(row, group) is None]


def first(row: Fields, names: tuple[str, ...]) -> str | None:
    """Find the first of `names` that the row has."""
    return next((name for name in names if name in row), None)


def _found(row: Fields, names: tuple[str, ...]) -> str:
    name = first(row, names)
    if name is None:
        raise RowError(names[0], "is missing")
    return name


def read_prompt(row: Fields) -> tuple[Prompt, bool]:
    """Read the prompt columns of a row; also tell whether they held a transcript, whose answers get trimmed."""
    field = _found(row, PROMPT_NAMES)
    turns = turns_of(row[field], field)
    if turns is not None:
        # A transcript ends with the cue `Assistant:`, which is an assistant turn without a text.
        if turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
            turns = turns[:-1]
        return as_prompt(_with_system(row, turns), field), isinstance(row[field], str)
    text = text_of(row[field], field)
    if field == "instruction" and str(row.get("input") or "").strip():
        text += "\n\n" + text_of(row["input"], "input")
    return as_prompt(_with_system(row, list(user(text))), field), False


def _with_system(row: Fields, turns: list[Message]) -> list[Message]:
    name = first(row, ("system", "system_prompt"))
    if name is None or any(m["role"] == "system" for m in turns) or not str(row[name]).strip():
        return turns
    return [Message(role="system", content=text_of(row[name], name)), *turns]


def _chosen_rejected(row: Fields) -> Comparison:
    names = ("chosen", "rejected")
    chosen, rejected = (turns_of(row[name], name) for name in names)
    if (chosen is None) != (rejected is None):
        raise RowError("rejected", "and chosen should both be text or both be lists of messages")
    if chosen is None or rejected is None:
        prompt, trim = read_prompt(row)
        a, b = (text_of(row[name], name) for name in names)
        a, b = (a.strip(), b.strip()) if trim else (a, b)
    elif chosen and chosen[0]["role"] == "assistant":
        prompt, _ = read_prompt(row)
        a, b = (answer_of(row[name], name) for name in names)
    else:
        # The conversations carry the prompt themselves; a prompt column only repeats it.
        prompt, a, b = split_shared(_with_system(row, chosen), _with_system(row, rejected), names)
    return _comparison(row, prompt, (a, b), names, Outcome.A)


def _arena(row: Fields) -> Comparison:
    names = ("conversation_a", "conversation_b")
    one, other = (turns_of(row[name], name) or [] for name in names)
    prompt, a, b = split_shared(one, other, names)
    return _comparison(row, prompt, (a, b), names, outcome_of(row, "winner"))


def _judged_pair(row: Fields) -> Comparison:
    names = next(pair for pair in PAIR_NAMES if pair[0] in row)
    if names[1] not in row:
        raise RowError(names[1], "is missing")
    prompt, _ = read_prompt(row)
    a, b = (answer_of(row[name], name) for name in names)
    return _comparison(row, prompt, (a, b), names, outcome_of(row, _found(row, WINNER_NAMES)))


def _comparison(
    row: Fields, prompt: Prompt, answers: tuple[str, str], names: tuple[str, str], outcome: Outcome
) -> Comparison:
    a, b = answers
    if a == b and outcome in (Outcome.A, Outcome.B):
        raise RowError(names[1], f"is the same text as {names[0]}, yet one is called better")
    return Comparison(prompt, a, b, outcome, **optional_fields(row), origin=origin_of(row))


def _ranking(row: Fields) -> Ranking:
    field = _found(row, LIST_NAMES)
    prompt, _ = read_prompt(row)
    items = list_of(row[field], field)
    if len(items) < 2:
        raise RowError(field, f"should hold two answers or more, not {len(items)}")
    answers, ranks = [], []
    for item in items:
        if isinstance(item, dict) and "role" not in item:
            item = item.get(first(item, ("text", "content", *ANSWER_NAMES)))
        answers.append(answer_of(item, field))
    if first(row, RANK_NAMES):
        ranks = _ranks(row, _found(row, RANK_NAMES), len(items))
    elif first(row, SCORE_NAMES):
        name = _found(row, SCORE_NAMES)
        scores = [number_of(score, name) for score in list_of(row[name], name)]
        _same_length(scores, items, name, field)
        order = sorted(set(scores), reverse=True)
        ranks = [order.index(score) + 1 for score in scores]
    elif field == "completions":
        # `generate` writes prompt and completions too; drawn answers without a verdict are not votes.
        raise RowError("ranks", "is missing: one number per completion, 1 is best")
    else:
        ranks = list(range(1, len(items) + 1))
    return Ranking(prompt, tuple(answers), tuple(ranks), origin_of(row))


def _ranks(row: Fields, name: str, count: int) -> list[int]:
    numbers = [number_of(rank, name) for rank in list_of(row[name], name)]
    _same_length(numbers, range(count), name, "the answers")
    if any(not math.isfinite(n) or n != int(n) or n < 0 for n in numbers):
        raise RowError(name, f"should be whole numbers, 1 for the best, not {shown(numbers)}")
    shift = 1 - min(1, int(min(numbers)))  # some count from 0
    return [int(n) + shift for n in numbers]


def _same_length(numbers: Any, answers: Any, name: str, field: str) -> None:
    if len(numbers) != len(answers):
        raise RowError(name, f"has {len(numbers)} numbers for {len(answers)} answers in {field}")


def _conversation(row: Fields) -> Demonstration | Prompt:
    field = _found(row, CONVERSATION_NAMES)
    turns = turns_of(row[field], field)
    if turns is None:
        raise RowError(field, "should be a list of messages")
    turns = _with_system(row, turns)
    if turns and turns[-1]["role"] == "user":
        return as_prompt(turns, field)
    return Demonstration(*split_answer(turns, field), origin_of(row))


def _prompt_answer(row: Fields) -> Demonstration:
    field = _found(row, ANSWER_NAMES)
    if str(row.get("label")).lower() in ("false", "0"):
        raise RowError("label", "calls this answer a bad one; only good ones are worth imitating")
    prompt, trim = read_prompt(row)
    answer = answer_of(row[field], field)
    return Demonstration(prompt, answer.strip() if trim else answer, origin_of(row))


def _text(row: Fields) -> Demonstration | Prompt:
    text = text_of(row["text"], "text")
    turns = turns_of(text, "text")
    if turns is None:
        return user(text)
    if turns[-1]["role"] == "user" or not turns[-1]["content"]:
        return question_of(turns, "text")
    return Demonstration(*split_answer(turns, "text"), origin_of(row))


_PAIRS = (
    Format("preference", (("chosen",), ("rejected",)), _chosen_rejected),
    Format("arena", (("conversation_a",), ("conversation_b",), ("winner",)), _arena),
    Format("judged-pair", (tuple(a for a, _ in PAIR_NAMES), WINNER_NAMES), _judged_pair),
    Format("ranking", (LIST_NAMES, PROMPT_NAMES), _ranking),
)
_ANSWERS = (
    Format("messages", (CONVERSATION_NAMES,), _conversation),
    Format("instruction", (("instruction",), ANSWER_NAMES), _prompt_answer),
    Format("prompt-completion", (PROMPT_NAMES, ANSWER_NAMES), _prompt_answer),
    Format("text", (("text",),), _text),
)
_PROMPTS = (Format("prompt", (PROMPT_NAMES,), lambda row: read_prompt(row)[0]),)
FORMATS = {
    "comparisons": _PAIRS,
    "demonstrations": (*_ANSWERS, *_PAIRS),
    "prompts": (*_PROMPTS, *_PAIRS, *_ANSWERS),
}


def read_row(fields: Fields, kind: str) -> tuple[str, Vote]:
    """Recognise a row and make the value asked for; return the format's name with it; raise `RowError`."""
    row = {name.strip().lower(): value for name, value in fields.items() if value is not None}
    formats = FORMATS[kind]
    for candidate in formats:
        if not candidate.missing(row):
            return candidate.name, as_kind(candidate.read(row), kind)
    close = [f for f in formats if len(f.missing(row)) < len(f.needs)]
    if close:
        nearest = min(close, key=lambda f: len(f.missing(row)))
        raise RowError(nearest.missing(row)[0], f"is missing or empty (read as {nearest.name})")
    expected = {"comparisons": "prompt, chosen, rejected", "demonstrations": "messages, or prompt, completion"}
    names = ", ".join(map(str, fields)) or "none"
    raise RowError("", f"no known fields (has {shown(names)}); needs e.g. {expected.get(kind, 'prompt')}")


def as_kind(value: Vote, kind: str) -> Vote:
    """Take from a value what was asked for; raise `RowError` if it does not hold that."""
    if kind == "prompts":
        return prompt_of(value)
    if kind == "comparisons":
        if isinstance(value, (Comparison, Ranking)):
            return value
        raise RowError("", "holds no comparison")
    if isinstance(value, Demonstration):
        return value
    if isinstance(value, Comparison) and value.outcome in (Outcome.A, Outcome.B):
        return Demonstration(value.prompt, value.a if value.outcome is Outcome.A else value.b, value.origin)
    if isinstance(value, Ranking) and value.ranks.count(min(value.ranks)) == 1:
        return Demonstration(value.prompt, value.completions[value.ranks.index(min(value.ranks))], value.origin)
    held = "a question only" if isinstance(value, tuple) else "no single best answer"
    raise RowError("", f"holds {held}; a demonstration needs an answer to imitate")
