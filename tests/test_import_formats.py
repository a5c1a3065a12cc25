"""Every format the field uses is recognised without being told, in every kind of file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lorarlhf.data.importing import read_file
from lorarlhf.types import Comparison, Demonstration, Message, Origin, Outcome, Prompt, Ranking, user


def say(*turns: str) -> list[Message]:
    """Make messages, the user's first."""
    return [Message(role="assistant" if n % 2 else "user", content=t) for n, t in enumerate(turns)]


TALK: Prompt = tuple(say("Hi", "Hello!", "Why?"))
BETTER = Comparison(user("Why?"), "Because.", "No idea.", Outcome.A)
LONG = Comparison(TALK, "Because.", "No idea.", Outcome.A)
RANKED = Ranking(user("Why?"), ("x", "y", "z"), (1, 2, 2))
HH = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant:"
TEXTS = {"prompt": "Why?", "chosen": "Because.", "rejected": "No idea."}


def read(tmp_path: Path, row: object, kind: str, name: str = "file.jsonl"):
    path = tmp_path / name
    path.write_text(json.dumps(row) + "\n")
    found = read_file(path, kind)
    return found.format, found.values()


ANSWER = {"role": "assistant", "content": "Because."}
OTHER = {"role": "assistant", "content": "No idea."}

COMPARISONS = [
    (TEXTS, "preference", BETTER),
    ({"question": "Why?", "chosen": "Because.", "rejected": "No idea."}, "preference", BETTER),
    ({"prompt": list(TALK), "chosen": [ANSWER], "rejected": [OTHER]}, "preference", LONG),
    ({"prompt": list(TALK), "chosen": ANSWER, "rejected": OTHER}, "preference", LONG),
    ({"prompt": list(TALK), "chosen": "Because.", "rejected": "No idea."}, "preference", LONG),
    ({"chosen": [*TALK, ANSWER], "rejected": [*TALK, OTHER]}, "preference", LONG),
    # UltraFeedback: the prompt is a text and both lists repeat it
    ({"prompt": "Why?", "chosen": say("Why?", "Because."), "rejected": say("Why?", "No idea.")}, "preference", BETTER),
    ({"chosen": HH + " Because.", "rejected": HH + " No idea."}, "preference", LONG),
    ({"prompt": HH, "chosen": " Because.", "rejected": " No idea."}, "preference", LONG),
    ({"conversations": [{"from": "human", "value": "Why?"}], **TEXTS}, "preference", BETTER),
    (
        {"chosen": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}],
         "rejected": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "No idea."}]},
        "preference", BETTER,
    ),
    (
        {"system": "Be brief.", "question": "Why?", "chosen": "Because.", "rejected": "No idea."},
        "preference",
        Comparison((Message(role="system", content="Be brief."), *user("Why?")), "Because.", "No idea.", Outcome.A),
    ),
    (
        {"instruction": "Add", "input": "1 2", "chosen": "3", "rejected": "4"},
        "preference", Comparison(user("Add\n\n1 2"), "3", "4", Outcome.A),
    ),
    (
        {"prompt": "Why?", "response_a": "Because.", "response_b": "No idea.", "winner": "A"},
        "judged-pair", BETTER,
    ),
    (
        {"prompt": "Why?", "a": "Because.", "b": "No idea.", "outcome": "both_bad"},
        "judged-pair", Comparison(user("Why?"), "Because.", "No idea.", Outcome.BOTH_BAD),
    ),
    (
        {"prompt": "Why?", "a": "Same.", "b": "Same.", "outcome": "tie"},
        "judged-pair", Comparison(user("Why?"), "Same.", "Same.", Outcome.TIE),
    ),
    *(
        (
            {"model_a": "m", "model_b": "n", "winner": winner, "judge": "arena_user_7", "turn": 1,
             "conversation_a": [*TALK, ANSWER], "conversation_b": [*TALK, OTHER]},
            "arena", Comparison(TALK, "Because.", "No idea.", outcome, origin=Origin(rater="arena_user_7")),
        )
        for winner, outcome in [
            ("model_a", Outcome.A), ("model_b", Outcome.B), ("tie", Outcome.TIE), ("tie (bothbad)", Outcome.BOTH_BAD),
        ]
    ),
    ({"prompt": "Why?", "completions": ["x", "y", "z"], "ranks": [1, 2, 2]}, "ranking", RANKED),
    ({"prompt": "Why?", "responses": ["x", "y", "z"], "rank": [0, 1, 1]}, "ranking", RANKED),
    ({"prompt": "Why?", "answers": ["x", "y", "z"], "scores": [0.9, -3, -3.0]}, "ranking", RANKED),
    ({"prompt": "Why?", "ranked": ["x", "y"]}, "ranking", Ranking(user("Why?"), ("x", "y"), (1, 2))),
    ({"prompt": "Why?", "responses": ["x", "y"]}, "ranking", Ranking(user("Why?"), ("x", "y"), (1, 2))),
    (
        {"prompt": "Why?", "completions": [[ANSWER], [OTHER]], "ranks": [2, 1]},
        "ranking", Ranking(user("Why?"), ("Because.", "No idea."), (2, 1)),
    ),
    (
        {**TEXTS, "strength": 2, "left": "b", "criteria": {"kind": "b"}, "reasons": ["true"], "rater": "ann",
         "round": 3, "seconds": 2.5, "adapters": ["p", ""], "note": "n"},
        "preference",
        Comparison(
            user("Why?"), "Because.", "No idea.", Outcome.A, 2, "b", {"kind": Outcome.B}, ("true",),
            origin=Origin("ann", 3, "import", 2.5, ("p", ""), note="n"),
        ),
    ),
    ({**TEXTS, "margin": 3.0}, "preference", Comparison(user("Why?"), "Because.", "No idea.", Outcome.A, 3)),
    ({**TEXTS, "margin": 0.37, "source": "web", "score_chosen": float("nan")}, "preference", BETTER),
]  # fmt: skip

LEARNT = Demonstration(user("Why?"), "Because.")
DEMONSTRATIONS = [
    ({"messages": say("Why?", "Because.")}, "messages", LEARNT),
    ({"messages": [*TALK, ANSWER]}, "messages", Demonstration(TALK, "Because.")),
    (
        {"conversations": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]},
        "messages", LEARNT,
    ),
    (
        {"conversations": [{"from": "system", "value": "S"}, {"from": "user", "value": "Why?"},
                           {"from": "Assistant", "value": "Because."}]},
        "messages", Demonstration((Message(role="system", content="S"), *user("Why?")), "Because."),
    ),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Why?"}]}, ANSWER]}, "messages", LEARNT),
    ({"instruction": "Why?", "input": "", "output": "Because."}, "instruction", LEARNT),
    (
        {"instruction": "Add", "input": "1 2", "output": "3"},
        "instruction", Demonstration(user("Add\n\n1 2"), "3"),
    ),
    ({"prompt": "Why?", "completion": "Because."}, "prompt-completion", LEARNT),
    ({"Prompt": "Why?", "Response": "Because."}, "prompt-completion", LEARNT),
    ({"prompt": list(TALK), "completion": [ANSWER]}, "prompt-completion", Demonstration(TALK, "Because.")),
    ({"text": HH + " Because."}, "text", Demonstration(TALK, "Because.")),
    (TEXTS, "preference", LEARNT),
    ({"prompt": "Why?", "a": "No.", "b": "Because.", "winner": "b"}, "judged-pair", LEARNT),
    ({"prompt": "Why?", "responses": ["No.", "Because."], "scores": [1, 2]}, "ranking", LEARNT),
]  # fmt: skip

PROMPTS = [
    ({"prompt": "Why?"}, "prompt", user("Why?")),
    ("Why?", "prompt", user("Why?")),
    ({"prompt": HH}, "prompt", TALK),
    ({"prompt": list(TALK)}, "prompt", TALK),
    (TEXTS, "prompt", user("Why?")),
    ({"prompt": "Why?", "chosen": None}, "prompt", user("Why?")),
    ({"chosen": HH + " Because.", "rejected": HH + " No idea."}, "preference", TALK),
    ({"messages": [*TALK, ANSWER]}, "messages", TALK),
    ({"messages": list(TALK)}, "messages", TALK),
    ({"text": "Why?"}, "text", user("Why?")),
    ({"text": HH}, "text", TALK),
    ({"instruction": "Add", "input": "1 2", "output": "3"}, "prompt", user("Add\n\n1 2")),
]


@pytest.mark.parametrize(("row", "name", "value"), COMPARISONS)
def test_comparisons(tmp_path: Path, row: object, name: str, value: object) -> None:
    assert read(tmp_path, row, "comparisons") == (name, [value])


@pytest.mark.parametrize(("row", "name", "value"), DEMONSTRATIONS)
def test_demonstrations(tmp_path: Path, row: object, name: str, value: object) -> None:
    assert read(tmp_path, row, "demonstrations") == (name, [value])


@pytest.mark.parametrize(("row", "name", "value"), PROMPTS)
def test_prompts(tmp_path: Path, row: object, name: str, value: object) -> None:
    assert read(tmp_path, row, "prompts") == (name, [value])
