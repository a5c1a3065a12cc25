"""Every format the field uses is recognised without being told, in every kind of file."""

from __future__ import annotations

import json
import math
from pathlib import Path

import datasets
import pytest

from lorarlhf.data.importing import read_file
from lorarlhf.errors import DataError
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
    (
        {"prompt": "Why?", "answers": [{"answer": "z", "rank": 3}, {"answer": "x", "rank": 1},
                                       {"answer": "y", "rank": 2}]},
        "ranking", Ranking(user("Why?"), ("z", "x", "y"), (3, 1, 2)),
    ),
    (
        {"prompt": "Why?", "responses": [{"text": "x", "score": 0.5}, {"text": "y", "score": 4}]},
        "ranking", Ranking(user("Why?"), ("x", "y"), (2, 1)),
    ),
    ({**TEXTS, "note": math.nan, "rater": math.nan, "strength": math.nan}, "preference", BETTER),
    (
        {**TEXTS, "criteria": "help", "reasons": "short", "round": "last", "seconds": "3 s", "left": True, "note": [1]},
        "preference", BETTER,
    ),
    ({"prompt": str(list(TALK)), "chosen": str([ANSWER]), "rejected": json.dumps([OTHER])}, "preference", LONG),
    (
        {"prompt": "Why?", "response_0": "x", "response_1": "y", "better_response_id": 1, "safer_response_id": 0},
        "pku-saferlhf", Comparison(user("Why?"), "x", "y", Outcome.B, criteria={"safe": Outcome.A}),
    ),
    *(
        (
            {"prompt": "Why?", "response_1": "x", "response_2": "y", "preference_strength": strength},
            "helpsteer2", Comparison(user("Why?"), "x", "y", outcome, much),
        )
        for strength, outcome, much in [(-3, Outcome.A, 2), (-1, Outcome.A, 1), (0, Outcome.TIE, 1), (2, Outcome.B, 1)]
    ),
    *(
        (
            {"history": "Why?", "human_ref_A": "x", "human_ref_B": "y", "labels": label, "score_A": 9},
            "shp", Comparison(user("Why?"), "x", "y", outcome),
        )
        for label, outcome in [(1, Outcome.A), (0, Outcome.B)]
    ),
    (
        {"input": {"messages": list(TALK)}, "preferred_output": [ANSWER], "non_preferred_output": [OTHER]},
        "openai-preference", LONG,
    ),
    (
        {"instruction": "Why?", "completions": [
            {"response": "x", "overall_score": 9, "fine-grained_score": 1.5},
            {"response": "y", "overall_score": 2, "fine-grained_score": 4.0}]},
        "ultrafeedback", Ranking(user("Why?"), ("x", "y"), (2, 1)),
    ),
    (
        {"id": 1, "data": {"prompt": "Why?", "answer1": "x", "answer2": "y"}, "annotations": [
            {"result": [{"type": "pairwise", "value": {"selected": "right"}}]}]},
        "label-studio", Comparison(user("Why?"), "x", "y", Outcome.B),
    ),
    (
        {"fields": {"prompt": "Why?", "r1": "x", "r2": "y"}, "responses": [
            {"values": {"ranking": {"value": [{"value": "r2", "rank": 1}, {"value": "r1", "rank": 2}]}}}]},
        "argilla", Ranking(user("Why?"), ("y", "x"), (1, 2)),
    ),
    (
        {"fields": {"instruction": "Why?", "r1": "x", "r2": "y"}, "responses": {"best": [{"value": ["r2", "r1"]}]}},
        "argilla", Ranking(user("Why?"), ("y", "x"), (1, 2)),
    ),
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


# -- what would train the wrong thing ---------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [False, 0, 0.0, -1, "bad", "FALSE", "undesirable"])
@pytest.mark.parametrize("name", ["label", "kto_tag"])
def test_answers_called_bad_are_never_demonstrations(tmp_path: Path, name: str, said: object) -> None:
    for row in ({"prompt": "Why?", "completion": "x"}, {"messages": say("Why?", "x")}):
        with pytest.raises(DataError, match=f"line 1: field {name} calls this answer a bad one"):
            read(tmp_path, {**row, name: said}, "demonstrations")
        assert read(tmp_path, {**row, name: 1.0}, "demonstrations")[1] == [Demonstration(user("Why?"), "x")]
        assert read(tmp_path, {**row, name: said}, "prompts")[1] == [user("Why?")]
        with pytest.raises(DataError, match=f"field {name} should say whether the answer is good"):
            read(tmp_path, {**row, name: "billing"}, "demonstrations")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "Put it in water.", "role": "assistant"}, "field role is"),
        ({"text": "<|im_start|>user\nWhy?<|im_end|>"}, "field text is a conversation written for some model"),
        ({"text": "### Human: Why?### Assistant: x"}, "field text is a conversation written for some model"),
    ],
)
def test_answers_and_rendered_conversations_are_no_prompts(tmp_path: Path, row: dict, words: str) -> None:
    with pytest.raises(DataError, match=words.replace("|", "\\|")):
        read(tmp_path, row, "prompts")


TREE = {
    "message_tree_id": "t",
    "prompt": {"text": "Why?", "role": "prompter", "replies": [
        {"text": "No.", "role": "assistant", "rank": 1, "replies": []},
        {"text": "So.", "role": "assistant", "rank": 0, "replies": [
            {"text": "And?", "role": "prompter", "replies": [{"text": "Then.", "role": "assistant", "rank": None}]}]},
    ]},
}  # fmt: skip


def flat(node: dict, parent: str | None = None, name: str = "m") -> list[dict]:
    own = {"message_id": name, "parent_id": parent, **{k: v for k, v in node.items() if k != "replies"}}
    return [own, *(row for i, reply in enumerate(node.get("replies", ())) for row in flat(reply, name, f"{name}{i}"))]


@pytest.mark.parametrize(
    "rows", [[TREE], flat(TREE["prompt"]), flat(TREE["prompt"])[::-1]], ids=["tree", "flat", "back"]
)
def test_conversation_trees_are_read_by_the_rank_of_their_replies(tmp_path: Path, rows: list[dict]) -> None:
    path = tmp_path / "trees.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    talk = tuple(say("Why?", "So.")) + user("And?")
    (ranked,) = read_file(path, "comparisons").values()
    assert dict(zip(ranked.completions, ranked.ranks, strict=True)) == {"So.": 1, "No.": 2}
    shown = {d.response: d.prompt for d in read_file(path, "demonstrations").values()}
    assert shown == {"So.": user("Why?"), "Then.": talk}
    prompts = read_file(path, "prompts").values()
    assert len(prompts) == 2
    assert user("Why?") in prompts
    assert talk in prompts


def test_an_import_says_what_it_understood(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = [
        {"prompt": f"{i}?", "response_1": "x", "response_2": "y", "preference_strength": i - 1, "lang": "en"}
        for i in range(3)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_file(path, "comparisons").understood == (
        "3 comparisons, 1 of them ties; chosen is response_1 where preference_strength is below 0, response_2 above "
        "it; 0 is a tie; columns left alone: lang"
    )


@pytest.mark.parametrize(
    "text",
    [
        "prompt;chosen;rejected\nWhy?;Because.;No idea.",
        "sep=;\nprompt;chosen;rejected\nWhy?;Because.;No idea.",
        "sep=,\nprompt,chosen,rejected\nWhy?,Because.,No idea.",
        "prompt\tchosen\trejected\nWhy?\tBecause.\tNo idea.",
    ],
)
def test_tables_are_read_whatever_separates_their_cells(tmp_path: Path, text: str) -> None:
    (tmp_path / "v.csv").write_text(text)
    assert read_file(tmp_path / "v.csv", "comparisons").values() == [BETTER]


def test_a_data_set_saved_to_disk_is_read(tmp_path: Path) -> None:
    datasets.Dataset.from_list([TEXTS]).save_to_disk(str(tmp_path / "saved"))
    assert read_file(tmp_path / "saved", "comparisons").values() == [BETTER]
