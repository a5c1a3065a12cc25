"""Layouts of well-known data sets and annotation tools whose verdict stands in a column of its own kind.

Each reader names the columns it goes by, so that an import can say what it understood. A verdict that cannot be read
is an error: the wrong one would train the opposite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lorarlhf.data.formats_messages import RowError, answer_of, as_prompt, shown, text_of, turns_of
from lorarlhf.data.formats_optional import number_of
from lorarlhf.types import Comparison, Message, Outcome, Prompt, Ranking, user

Fields = Mapping[str, Any]

PAIRED = (("answer1", "answer2"), ("response1", "response2"), ("response_1", "response_2"), ("text1", "text2"))
ASKED = ("prompt", "instruction", "question", "input", "text")
SCORES = ("fine-grained_score", "overall_score", "score", "rating")


class Layout(NamedTuple):
    """One layout: the columns that tell it, how it is read, and by what its verdict goes."""

    name: str
    needs: tuple[str, ...]
    read: Callable[[Fields], Comparison | Ranking]
    says: str


def layout_of(row: Fields) -> Layout | None:
    """Find the layout whose columns a row has."""
    return next((layout for layout in LAYOUTS if all(name in row for name in layout.needs)), None)


def _asked(row: Fields, name: str) -> Prompt:
    turns = turns_of(row[name], name)
    return as_prompt(turns if turns is not None else list(user(text_of(row[name], name))), name)


def _pair(prompt: Prompt, row: Fields, names: tuple[str, str], outcome: Outcome, **more: Any) -> Comparison:
    a, b = (answer_of(row[name], name) for name in names)
    if a == b and outcome in (Outcome.A, Outcome.B):
        raise RowError(names[1], f"is the same text as {names[0]}, yet one is called better")
    return Comparison(prompt, a, b, outcome, **more)


def _one_of(row: Fields, name: str, sides: Mapping[float, Outcome]) -> Outcome:
    number = number_of(row[name], name)
    if number not in sides:
        raise RowError(name, f"should be {' or '.join(f'{side:g}' for side in sides)}, not {shown(row[name])}")
    return sides[number]


FIRST_IS_0 = {0.0: Outcome.A, 1.0: Outcome.B}


def _pku(row: Fields) -> Comparison:
    names = ("response_0", "response_1")
    criteria = {"safe": _one_of(row, "safer_response_id", FIRST_IS_0)} if "safer_response_id" in row else {}
    outcome = _one_of(row, "better_response_id", FIRST_IS_0)
    return _pair(_asked(row, "prompt"), row, names, outcome, criteria=criteria)


def _helpsteer(row: Fields) -> Comparison:
    strength = number_of(row["preference_strength"], "preference_strength")
    if strength not in range(-3, 4):
        raise RowError("preference_strength", f"should be a whole number from -3 to 3, not {shown(strength)}")
    outcome = Outcome.A if strength < 0 else Outcome.B if strength > 0 else Outcome.TIE
    much = 2 if abs(strength) == 3 else 1
    return _pair(_asked(row, "prompt"), row, ("response_1", "response_2"), outcome, strength=much)


def _shp(row: Fields) -> Comparison:
    outcome = _one_of(row, "labels", {1.0: Outcome.A, 0.0: Outcome.B})
    return _pair(_asked(row, "history"), row, ("human_ref_a", "human_ref_b"), outcome)


def _preferred(row: Fields) -> Comparison:
    asked = row["input"]
    turns = turns_of(asked.get("messages") if isinstance(asked, dict) else asked, "input")
    prompt = as_prompt(turns if turns is not None else list(user(text_of(asked, "input"))), "input")
    return _pair(prompt, row, ("preferred_output", "non_preferred_output"), Outcome.A)


def _ultrafeedback(row: Fields) -> Ranking:
    answers, scores = [], []
    for item in row["completions"] if isinstance(row["completions"], list | tuple) else ():
        name = next((n for n in SCORES if isinstance(item, dict) and item.get(n) is not None), None)
        if name is None or "response" not in item:
            raise RowError("completions", f"should each have a response and a score ({', '.join(SCORES[:2])})")
        answers.append(text_of(item["response"], "completions"))
        scores.append(number_of(item[name], name))
    if len(answers) < 2:
        raise RowError("completions", f"should hold two answers or more, not {len(answers)}")
    order = sorted(set(scores), reverse=True)
    return Ranking(_asked(row, "instruction"), tuple(answers), tuple(order.index(score) + 1 for score in scores))


def _label_studio(row: Fields) -> Comparison:
    data = row["data"] if isinstance(row["data"], dict) else {}
    picked = {
        result["value"].get("selected")
        for annotation in row["annotations"] or ()
        if not annotation.get("was_cancelled")
        for result in annotation.get("result", ())
        if result.get("type") == "pairwise" and isinstance(result.get("value"), dict)
    }
    if len(picked) != 1 or not picked <= {"left", "right"}:
        said = "no pairwise verdict" if not picked else f"verdicts that differ ({', '.join(map(str, sorted(picked)))})"
        raise RowError("annotations", f"should hold one verdict, left or right, not {said}")
    names = next((pair for pair in PAIRED if all(name in data for name in pair)), None)
    asked = next((name for name in ASKED if name in data), None)
    if names is None or asked is None:
        raise RowError("data", f"needs a prompt and two answers, such as answer1 and answer2; has {', '.join(data)}")
    return _pair(_asked(data, asked), data, names, Outcome.A if picked == {"left"} else Outcome.B)


def _argilla(row: Fields) -> Ranking:
    fields = row["fields"] if isinstance(row["fields"], dict) else {}
    asked = next((name for name in ASKED if name in fields), None)
    ranks = _argilla_ranks(row["responses"])
    if asked is None or not ranks or not set(ranks) <= fields.keys():
        has = ", ".join(fields) or "none"
        raise RowError("responses", f"should rank fields of the record that answer its prompt; its fields: {has}")
    if len(ranks) < 2:
        raise RowError("responses", "should rank two answers or more")
    texts = tuple(answer_of(fields[name], name) for name in ranks)
    return Ranking(_asked(fields, asked), texts, tuple(ranks.values()))


def _argilla_ranks(responses: Any) -> dict[str, int]:
    """Find the one ranking among the responses, in the shapes that versions 1 and 2 write → name of field: rank."""
    if isinstance(responses, list):  # version 1: one entry per person
        said = [value for one in responses for value in (one.get("values") or {}).values()]
    else:
        said = [one for answers in responses.values() for one in (answers if isinstance(answers, list) else [answers])]
    found = []
    for one in said:
        value = one.get("value") if isinstance(one, dict) else None
        if isinstance(value, list) and value and all(isinstance(item, dict) and "rank" in item for item in value):
            found.append({str(item["value"]): int(number_of(item["rank"], "rank")) for item in value})
        elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
            found.append({name: place for place, name in enumerate(value, 1)})
    if len(found) > 1 and any(ranks != found[0] for ranks in found):
        raise RowError("responses", f"hold {len(found)} rankings that differ; export one of them")
    return found[0] if found else {}


LAYOUTS = (
    Layout("pku-saferlhf", ("prompt", "response_0", "response_1", "better_response_id"), _pku,
           "chosen is response_0 where better_response_id is 0, else response_1; safer_response_id as criterion safe"),
    Layout("helpsteer2", ("prompt", "response_1", "response_2", "preference_strength"), _helpsteer,
           "chosen is response_1 where preference_strength is below 0, response_2 above it; 0 is a tie"),
    Layout("shp", ("history", "human_ref_a", "human_ref_b", "labels"), _shp,
           "prompt from history, chosen is human_ref_A where labels is 1, else human_ref_B"),
    Layout("openai-preference", ("input", "preferred_output", "non_preferred_output"), _preferred,
           "prompt from input, chosen from preferred_output, rejected from non_preferred_output"),
    Layout("ultrafeedback", ("instruction", "completions"), _ultrafeedback,
           "prompt from instruction, answers from completions, ranked by the score of each"),
    Layout("label-studio", ("data", "annotations"), _label_studio,
           "prompt and answers from data, chosen is the side that the annotation selected"),
    Layout("argilla", ("fields", "responses"), _argilla,
           "prompt and answers from fields, ranked as in responses"),
)  # fmt: skip


# -- trees ------------------------------------------------------------------------------------------------------

FLAT = ("message_id", "parent_id", "role", "text")


def is_tree(row: Fields) -> bool:
    """Tell a nested conversation tree as OASST keeps it."""
    root = row.get("prompt")
    return isinstance(root, dict) and "replies" in root and "text" in root


def is_flat(row: Fields) -> bool:
    """Tell a single message of such a tree."""
    return all(name in row for name in FLAT)


def trees_of(messages: Sequence[Fields]) -> list[dict[str, Any]]:
    """Put single messages together to trees → their first messages, replies inside."""
    nodes: dict[Any, dict[str, Any]] = {row["message_id"]: {**row, "replies": []} for row in messages}
    roots: list[dict[str, Any]] = []
    for node in nodes.values():
        parent = nodes.get(node["parent_id"])
        (roots if parent is None else parent["replies"]).append(node)
    return [root for root in roots if root["role"] in ("prompter", "user")]


def rows_of_tree(root: Fields, kind: str) -> Iterator[dict[str, Any]]:
    """Yield a row for every user turn of a tree that was answered, with its conversation so far.

    For comparisons the answers that have a rank, 0 the best, where there are two or more; for demonstrations the best.
    """
    waiting: list[tuple[Fields, list[Message]]] = [(root, [])]
    while waiting:
        node, before = waiting.pop()
        asked: list[Message] = [*before, {"role": "user", "content": node["text"]}]
        replies = [reply for reply in node.get("replies") or () if not reply.get("deleted")]
        ranked = [reply for reply in replies if isinstance(reply.get("rank"), int | float)]
        best = sorted(ranked, key=lambda reply: reply["rank"]) or (replies if len(replies) == 1 else [])
        if kind == "comparisons" and len(ranked) > 1:
            yield {"prompt": asked, "answers": [{"text": r["text"], "rank": r["rank"]} for r in ranked]}
        elif kind == "demonstrations" and best:
            yield {"messages": [*asked, {"role": "assistant", "content": best[0]["text"]}]}
        elif kind == "prompts":
            yield {"prompt": asked}
        for reply in replies:
            said: list[Message] = [*asked, {"role": "assistant", "content": reply["text"]}]
            waiting += [(turn, said) for turn in reply.get("replies") or () if not turn.get("deleted")]
