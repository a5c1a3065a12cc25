"""Rows as the field writes them, made into our values. Each format is one reader; each row finds its own.

A reader makes the richest value its row allows; `read_row` then takes from it what the person asked for: a
comparison also holds a prompt, and its better answer is a demonstration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lorarlhf.data.formats_layouts import layout_of
from lorarlhf.data.formats_messages import (
    ROLES,
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
BEST_FIRST = "ranked"
"""The one list whose order alone says which answer is best."""
OWN_RANKS, OWN_SCORES = ("rank",), ("score", "rating", "overall_score")
"""Where a list's answers are objects that say themselves how good they are."""
LABEL_NAMES = ("label", "kto_tag", "labels", "is_desirable")
GOOD = ("true", "1", "1.0", "good", "desirable", "yes", "chosen", "thumbs_up", "up")
BAD = ("false", "0", "0.0", "-1", "-1.0", "bad", "undesirable", "no", "rejected", "thumbs_down", "down")
MARKUP = re.compile(
    r"<\|im_start\|>|<\|start_header_id\|>|<start_of_turn>|\[INST\]|^### (Human|User|Assistant|Instruction):", re.M
)
"""Marks of a conversation that is rendered already, for some model."""
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
    answers = []
    for item in items:
        if isinstance(item, dict) and "role" not in item:
            item = item.get(first(item, ("text", "content", *ANSWER_NAMES)))
        answers.append(answer_of(item, field))
    if (name := _in_each(items, OWN_RANKS)) is not None:
        ranks = _ranks([item[name] for item in items], name)
    elif (name := _in_each(items, OWN_SCORES)) is not None:
        ranks = _by_score([item[name] for item in items], name)
    elif name := first(row, RANK_NAMES):
        ranks = _ranks(_numbers(row, name, items, field), name)
    elif name := first(row, SCORE_NAMES):
        ranks = _by_score(_numbers(row, name, items, field), name)
    elif field == BEST_FIRST:
        ranks = list(range(1, len(items) + 1))
    else:
        raise RowError(
            "ranks",
            f"is missing: one number per answer in {field}, 1 is best; or call a list that is best first ranked",
        )
    return Ranking(prompt, tuple(answers), tuple(ranks), origin_of(row))


def _in_each(items: list[Any], names: tuple[str, ...]) -> str | None:
    """Find the name under which the answers themselves say how good they are; raise where only some do."""
    has = [first(item, names) if isinstance(item, dict) else None for item in items]
    name = next((one for one in has if one), None)
    if name and any(one != name for one in has):
        raise RowError(name, "is missing in some of the answers")
    return name


def _numbers(row: Fields, name: str, items: list[Any], field: str) -> list[Any]:
    numbers = list_of(row[name], name)
    if len(numbers) != len(items):
        raise RowError(name, f"has {len(numbers)} numbers for {len(items)} answers in {field}")
    return numbers


def _by_score(values: list[Any], name: str) -> list[int]:
    scores = [number_of(value, name) for value in values]
    order = sorted(set(scores), reverse=True)
    return [order.index(score) + 1 for score in scores]


def _ranks(values: list[Any], name: str) -> list[int]:
    numbers = [number_of(value, name) for value in values]
    if any(not math.isfinite(n) or n != int(n) or n < 0 for n in numbers):
        raise RowError(name, f"should be whole numbers, 1 for the best, not {shown(numbers)}")
    shift = 1 - min(1, int(min(numbers)))  # some count from 0
    return [int(n) + shift for n in numbers]


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
    prompt, trim = read_prompt(row)
    answer = answer_of(row[field], field)
    return Demonstration(prompt, answer.strip() if trim else answer, origin_of(row))


def _text(row: Fields) -> Demonstration | Prompt:
    text = text_of(row["text"], "text")
    role = str(row["role"]).lower() if "role" in row else "user"
    if ROLES.get(role) != "user":
        raise RowError("role", f"is {shown(role)}: only what a user said is a prompt")
    if mark := MARKUP.search(text):
        raise RowError(
            "text", f"is a conversation written for some model ({mark[0].strip()}); export its messages instead"
        )
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


class Row(dict[str, Any]):
    """The fields of a row, which remember what was read of them."""

    def __init__(self, fields: Fields) -> None:
        super().__init__(fields)
        self.used: dict[str, None] = {}

    def __getitem__(self, name: str) -> Any:
        self.used[name] = None
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """Read a field, or the default where it is not there."""
        return self[name] if name in self else default  # noqa: SIM401 - that would be this method

    def left(self) -> tuple[str, ...]:
        """Name the fields nobody read."""
        return tuple(name for name in self if name not in self.used)


class Read(NamedTuple):
    """A row that was understood."""

    format: str
    value: Vote
    left: tuple[str, ...] = ()
    """Columns that were left alone."""
    says: str = ""
    """How a well-known layout is read."""
    used: tuple[str, ...] = ()
    """Columns that were read, where no layout says it better."""


def _by_name(fields: Fields) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in fields.items():
        key = name.strip().lower()
        if key in found:
            raise RowError(name, "is there twice, in small and in capital letters")
        found[key] = value
    return found


def _absent(value: Any) -> bool:
    """Tell what tables write where there is nothing: null, or NaN."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _check_label(row: Fields) -> None:
    """Refuse an answer that its row calls bad, or calls something nobody knows."""
    for name in LABEL_NAMES:
        if name not in row:
            continue
        said = str(row[name]).strip().lower()
        if said in BAD:
            raise RowError(name, "calls this answer a bad one; only good ones are worth imitating")
        if said not in GOOD:
            raise RowError(name, f"should say whether the answer is good (true or false), not {shown(row[name])}")


def read_row(fields: Fields, kind: str) -> Read:
    """Recognise a row and make the value asked for → how it was read, and the value; raise `RowError`."""
    row = Row({name: value for name, value in _by_name(fields).items() if not _absent(value)})
    formats = FORMATS[kind]
    layout = layout_of(row)
    if layout:
        value: Vote = layout.read(row)
        return Read(layout.name, as_kind(value, kind), row.left(), layout.says)
    for candidate in formats:
        if not candidate.missing(row):
            value = as_kind(candidate.read(row), kind)
            if kind == "demonstrations":
                _check_label(row)
            return Read(candidate.name, value, row.left(), "", tuple(row.used))
    # A prompt alone says nothing of how its answers are called, where there should be several.
    telling = [f for f in formats if any(first(row, g) for g in f.needs if kind != "comparisons" or g != PROMPT_NAMES)]
    close = [f for f in telling if f.missing(row)]
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
