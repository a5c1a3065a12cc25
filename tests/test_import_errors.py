"""Bad files: one line that names file, place and field, and a store that is as it was."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from lorarlhf.data.importing import import_file, read_file
from lorarlhf.errors import DataError
from lorarlhf.store import Store

GOOD = {"prompt": "Why?", "chosen": "Because.", "rejected": "No idea."}
OURS = {"prompt": "Why?", "a": "1", "b": "2", "outcome": "a"}
USER, ANSWER = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
MARKED = {
    **{"lorarlhf": 1, "kind": "comparisons", "id": 1, "created": "x", "prompt": [USER], "a": "1", "b": "2"},
    **{"outcome": "a", "strength": 1, "left": "a", "criteria": {}, "reasons": [], "repeats": None},
    "origin": {
        **{"rater": "", "round": 0, "source": "app", "seconds": None, "adapters": [], "adapter_hashes": []},
        **{"sampling": {}, "note": ""},
    },
}


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "workspace.db") as opened:
        yield opened


def refused(store: Store, path: Path | str, kind: str = "comparisons") -> str:
    """Import what must be refused; give the message."""
    before = store.history()
    with pytest.raises(DataError) as caught:
        import_file(store, path, kind)
    assert store.history() == before
    message = str(caught.value)
    assert "\n" not in message
    return message


PKU = {"prompt": "Why?", "response_0": "x", "response_1": "y"}
STEER = {"prompt": "Why?", "response_1": "x", "response_2": "y"}
BAD_COMPARISONS = [
    ({**GOOD, "chosen": ""}, "field chosen is empty"),
    ({**GOOD, "rejected": "  \n"}, "field rejected is empty"),
    ({**GOOD, "prompt": " "}, "field prompt is empty"),
    ({**GOOD, "rejected": None}, "field rejected is missing"),
    ({**GOOD, "chosen": float("nan")}, "field chosen is missing"),
    ({**GOOD, "Chosen": "x"}, "field Chosen is there twice"),
    ({**GOOD, "chosen": "[{'role': 'assistant', 'content': 'x'"}, "field chosen looks like a list of messages"),
    ({**GOOD, "prompt": 7}, "field prompt should be text"),
    ({**GOOD, "rejected": "Because."}, "field rejected is the same text as chosen"),
    ({**GOOD, "chosen": "\ud800"}, "field chosen holds half a character"),
    ({**GOOD, "chosen": [ANSWER]}, "field rejected and chosen should both be"),
    ({"chosen": "x", "rejected": "y"}, "field prompt is missing"),
    ({**GOOD, "prompt": [USER, ANSWER]}, "field prompt should end with a user turn"),
    ({**GOOD, "prompt": []}, "field prompt has no messages"),
    ({**GOOD, "prompt": [{"role": "tool", "content": "x"}]}, 'field prompt message 1 has the unknown role "tool"'),
    ({**GOOD, "prompt": [{"role": "user"}]}, "field prompt message 1 should have text"),
    ({**GOOD, "prompt": ["Why?"]}, "field prompt message 1 should be an object"),
    (
        {**GOOD, "prompt": [{"role": "user", "content": [{"type": "image_url"}]}]},
        "field prompt message 1 holds something other than text",
    ),
    ({"chosen": [USER, ANSWER], "rejected": [USER]}, "field rejected should end with an assistant turn"),
    (
        {"chosen": [USER, ANSWER], "rejected": [{"role": "user", "content": "Who?"}, ANSWER]},
        "field rejected differs from chosen before its last turn",
    ),
    ({"chosen": [USER, ANSWER], "rejected": [USER, ANSWER]}, "field rejected is the same text"),
    ({"chosen": "\n\nHuman: Hi\n\nAssistant:", "rejected": "\n\nHuman: Hi\n\nAssistant: x"}, "field chosen is empty"),
    ({"prompt": "Why?", "a": "1", "b": "2"}, "field outcome is missing"),
    ({"prompt": "Why?", "a": "1", "b": "2", "winner": "left"}, "field winner should be a, b, tie"),
    ({"prompt": "Why?", "a": "1", "outcome": "a"}, "field b is missing"),
    ({"prompt": "Why?", "a": "1", "b": "1", "outcome": "b"}, "field b is the same text as a"),
    ({**GOOD, "strength": 0}, "field strength should be a whole number from 1 to 5"),
    ({**GOOD, "strength": "much"}, 'field strength should be a number, not "much"'),
    ({**GOOD, "margin": "big"}, 'field margin should be a number, not "big"'),
    ({**OURS, "seconds": float("inf")}, "field seconds should be a number"),
    ({**OURS, "round": -1}, "field round should be a whole number"),
    ({**OURS, "left": "right"}, "field left should be a or b"),
    ({**OURS, "criteria": {"kind": "yes"}}, "field criteria should be a, b"),
    ({**OURS, "criteria": "kind"}, "field criteria should be an object"),
    ({**OURS, "rater": ["ann"]}, "field rater should be text"),
    ({**OURS, "reasons": "short"}, "field reasons should be a list"),
    ({"prompt": "Why?", "completions": ["x", "y"]}, "field ranks is missing"),
    ({"prompt": "Why?", "responses": ["x", "y"]}, "field ranks is missing: one number per answer in responses"),
    ({"prompt": "Why?", "answers": [{"text": "x", "rank": 1}, {"text": "y"}]}, "field rank is missing in some"),
    (
        {"prompt": "Why?", "response_0": "x", "response_1": "y"},
        'no known fields (has "prompt, response_0, response_1")',
    ),
    ({**PKU, "better_response_id": 2}, "field better_response_id should be 0 or 1, not 2"),
    ({**STEER, "preference_strength": 4}, "field preference_strength should be a whole number from -3 to 3"),
    ({"instruction": "Why?", "completions": [{"response": "x"}, {"response": "y"}]}, "field completions should each"),
    ({"prompt": "Why?", "completions": ["x", "y"], "ranks": [1]}, "field ranks has 1 numbers for 2 answers"),
    ({"prompt": "Why?", "completions": ["x", "y"], "ranks": [1, 1.5]}, "field ranks should be whole numbers"),
    ({"prompt": "Why?", "completions": ["x", "y"], "scores": [1, float("nan")]}, "field scores should be a number"),
    ({"prompt": "Why?", "completions": ["x", ""], "ranks": [1, 2]}, "field completions is empty"),
    ({"prompt": "Why?", "completions": ["x", {"x": 1}], "ranks": [1, 2]}, "field completions should be text"),
    ({"prompt": "Why?", "completions": ["x"], "ranks": [1]}, "field completions should hold two answers or more"),
    ({"title": "x", "body": "y"}, 'no known fields (has "title, body"); needs e.g. prompt, chosen, rejected'),
    ({}, "no known fields"),
    ({**MARKED, "lorarlhf": 2}, "field lorarlhf says version 2"),
    ({**MARKED, "outcome": "maybe"}, "field outcome should be a, b"),
    ({**MARKED, "origin": {}}, "field origin.rater is missing"),
    ({**MARKED, "strength": 1.5}, "field strength should be a whole number"),
    ({**MARKED, "a": None}, "field a should be text"),
    ({**MARKED, "prompt": []}, "field prompt has no messages"),
    ({**MARKED, "repeats": 40}, "field repeats names row 40"),
    ({key: value for key, value in MARKED.items() if key != "left"}, "field left is missing"),
]


@pytest.mark.parametrize(("row", "words"), BAD_COMPARISONS, ids=[words for _, words in BAD_COMPARISONS])
def test_bad_comparison(store: Store, tmp_path: Path, row: dict, words: str) -> None:
    path = tmp_path / "votes.jsonl"
    first = MARKED if "lorarlhf" in row else GOOD
    path.write_text("\n".join([json.dumps(first), "", json.dumps(row)]))
    message = refused(store, path)
    assert message.startswith("votes.jsonl")
    assert f"line 3: {words}" in message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [USER]}, "holds a question only"),
        ({"messages": [ANSWER]}, "field messages has no messages"),
        ({"messages": "Why?"}, "field messages should be a list of messages"),
        ({"messages": []}, "field messages should end with an assistant turn"),
        ({"conversations": [{"from": "observation", "value": "x"}]}, 'unknown role "observation"'),
        ({"prompt": "Why?", "completion": ""}, "field completion is empty"),
        ({"prompt": "Why?", "completion": "x", "label": False}, "field label calls this answer a bad one"),
        ({"instruction": "Why?"}, "field completion is missing or empty"),
        ({"text": "just text"}, "holds a question only"),
        ({"prompt": "Why?", "a": "1", "b": "2", "outcome": "tie"}, "holds no single best answer"),
        ({"prompt": "Why?", "responses": ["x", "y"], "scores": [1, 1]}, "holds no single best answer"),
    ],
)
def test_bad_demonstration(store: Store, tmp_path: Path, row: dict, words: str) -> None:
    path = tmp_path / "demos.jsonl"
    path.write_text(json.dumps({"prompt": "Why?", "completion": "x"}) + "\n" + json.dumps(row) + "\n")
    message = refused(store, path, "demonstrations")
    assert "demos.jsonl" in message
    assert "line 2: " in message
    assert words in message


def test_every_bad_row_is_counted_and_five_are_shown(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text("\n".join(json.dumps({**GOOD, "chosen": ""} if n % 2 else GOOD) for n in range(20)))
    message = refused(store, path)
    assert message.startswith("votes.jsonl: 10 bad rows, nothing was imported: line 2: field chosen is empty; line 4:")
    assert message.count("field chosen is empty") == 5
    assert message.endswith("; and 5 more")
    report = import_file(store, path, "comparisons", skip_bad=True)
    assert (report["added"], report["duplicates"], report["bad"]) == (1, 9, 10)


FILES = [
    ("empty.jsonl", b"", "is empty"),
    ("blank.csv", b" \n\n", "is empty"),
    ("bom.txt", b"\xef\xbb\xbf", "is empty"),
    ("list.json", b"[]", "is empty"),
    ("header.csv", b"prompt,chosen,rejected\n", "holds no comparisons"),
    ("number.json", b"42", "should hold a list of rows, not 42"),
    ("list.json", b"[1]", "row 1: should be an object with fields, not 1"),
    ("latin.jsonl", json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9"}', "line 2: byte 0xe9 is not UTF-8"),
    ("latin.json", b'[\n{"prompt": "caf\xe9"}]', "line 2: byte 0xe9 is not UTF-8"),
    ("latin.csv", b"prompt,chosen,rejected\na,b,c\ncaf\xe9,b,c", "line 3: byte 0xe9 is not UTF-8"),
    ("wide.jsonl", json.dumps(GOOD).encode("utf-16"), "is UTF-16; save it as UTF-8"),
    ("picture.json", b"\x89PNG\r\n\x1a\n\0\0\0", "is not a text file"),
    ("table.csv", b"PK\x03\x04 and so on", "spreadsheet or zip archive; save it as CSV"),
    ("votes.db", b"SQLite format 3\0", "is a database"),
    ("cut.jsonl.gz", gzip.compress(json.dumps(GOOD).encode() * 50)[:-20], "is cut off"),
    ("bent.jsonl.gz", b"\x1f\x8b\x08\0 no gzip at all", "is not a whole gzip file"),
    ("no.jsonl.gz", b"plain", "is not a whole gzip file"),
    ("cut.jsonl", b'{"prompt": "a"\n', "line 1: column 15: not JSON"),
    ("cut.json", b'[\n {"prompt": "a",}\n]', "line 2, column 17: not JSON"),
    ("deep.json", b"[" * 100_000, "not usable JSON"),
    ("deep.jsonl", b"[" * 100_000, "line 1: not usable JSON"),
    ("long.jsonl", b'{"prompt": ' + b"9" * 5000 + b"}", "line 1: not usable JSON"),
    ("cut.parquet", b"PAR1 and nothing", "is not a whole Parquet file"),
    ("not.parquet", b"hello", "is not a Parquet file"),
    ("votes.txt", b"Why?\n", "plain text can only be imported as prompts"),
    ("cells.csv", b'prompt,chosen,rejected\n"a\nb",c,d\nx,y\n', "line 4: has 2 cells, but the header has 3 columns"),
    ("empty.csv", b"prompt,chosen,rejected\na,b,\n", "line 2: field rejected is missing or empty"),
    ("twice.csv", b"prompt,chosen,chosen\na,b,c\n", "line 1: column chosen is there twice"),
    ("quote.csv", b'prompt,chosen,rejected\na,b,c\na,b,"c\n', "line 3: not CSV: unexpected end of data"),
]


@pytest.mark.parametrize(("name", "data", "words"), FILES, ids=[f"{name}: {words}" for name, _, words in FILES])
def test_bad_file(store: Store, tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    message = refused(store, tmp_path / name)
    assert name in message
    assert words in message


def test_rows_of_parquet_are_numbered(store: Store, tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [GOOD, {**GOOD, "rejected": None}, {**GOOD, "chosen": "No idea."}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
    message = refused(store, tmp_path / "f.parquet")
    assert "row 2: field rejected is missing" in message
    assert "row 3: field rejected is the same text as chosen" in message
    data = bytearray((tmp_path / "f.parquet").read_bytes())
    data[4:60] = b"\xff" * 56
    (tmp_path / "bent.parquet").write_bytes(data)
    assert "bent.parquet" in refused(store, tmp_path / "bent.parquet")
    pq.write_table(pa.Table.from_pylist(rows).slice(0, 0), tmp_path / "none.parquet")
    assert "is empty" in refused(store, tmp_path / "none.parquet")


def test_missing_files_and_folders(store: Store, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "votes.jsonl").write_text("x")
    (tmp_path / "sub").mkdir()
    assert "did you mean votes.jsonl?" in refused(store, tmp_path / "vote.jsonl")
    assert "did you mean votes.jsonl?" in refused(store, "votes.jsnl")
    assert "there is no folder" in refused(store, tmp_path / "nowhere" / "votes.jsonl")
    assert "does not exist" in refused(store, "sub/votes")  # a folder that exists is no owner on the Hub
    assert "is a folder; name one file in it, e.g. votes.jsonl" in refused(store, tmp_path)
    with pytest.raises(DataError, match="cannot import as 'votes'; known: comparisons"):
        read_file("votes.jsonl", "votes")
