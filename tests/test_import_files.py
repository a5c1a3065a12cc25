"""Every kind of file is read, duplicates are skipped, progress is told, the Hub is asked last."""

from __future__ import annotations

import csv
import gzip
import json
import sys
import types
from pathlib import Path

import pytest

from lorarlhf.data.exporting import write_votes
from lorarlhf.data.importing import guess_kind, import_file, read_file
from lorarlhf.errors import DataError
from lorarlhf.store import Store
from lorarlhf.types import Comparison, Demonstration, Origin, Outcome, user
from tests.test_import_formats import ANSWER, BETTER, LONG, OTHER, RANKED, TALK, TEXTS, say

ROWS = [TEXTS, {**TEXTS, "prompt": "Wie so? ⚙\u2028\x85", "chosen": 'a\r\nb,"c"'}]
VALUES = [BETTER, Comparison(user(ROWS[1]["prompt"]), ROWS[1]["chosen"], "No idea.", Outcome.A)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("f.jsonl", LINES),
        ("f.ndjson", LINES),
        ("f.jsonl", b"\xef\xbb\xbf" + LINES),
        ("f.jsonl", LINES.replace(b"\n", b"\r\n\r\n")),
        ("f.jsonl", LINES.rstrip()),
        ("f.jsonl.gz", gzip.compress(LINES)),
        ("f.jsonl", gzip.compress(LINES)),
        ("f.json", LINES),
        ("noextension", LINES),
        ("f.json", json.dumps(ROWS, indent=2).encode()),
        ("f.json.gz", gzip.compress(json.dumps(ROWS).encode())),
        ("f.json", json.dumps({"version": 1, "data": ROWS}, indent=1).encode()),
        ("f.dat", b"\n " + json.dumps(ROWS).encode()),
    ],
)
def test_json_in_all_its_files(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    assert read_file(str(tmp_path / name), "comparisons").values() == VALUES


def test_one_json_object_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text(json.dumps(TEXTS, indent=2))
    assert read_file(tmp_path / "f.json", "comparisons").values() == [BETTER]


@pytest.mark.parametrize(("name", "delimiter"), [("f.csv", ","), ("f.tsv", "\t")])
def test_csv_with_messages_and_lists_in_cells(tmp_path: Path, name: str, delimiter: str) -> None:
    header = ["Prompt", "chosen", "rejected", "strength", "criteria", "reasons", "rater", ""]
    rows = [
        ["Why?", 'two\nlines, "quoted"', "No idea.", "2", '{"kind": "a"}', '["true"]', "ann", "x"],
        [json.dumps(TALK), json.dumps([ANSWER]), json.dumps([OTHER]), "", "", "", "", ""],
    ]
    with (tmp_path / name).open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    first, second = read_file(tmp_path / name, "comparisons").values()
    assert first == Comparison(
        user("Why?"), 'two\nlines, "quoted"', "No idea.", Outcome.A, 2,
        criteria={"kind": Outcome.A}, reasons=("true",), origin=Origin(rater="ann"),
    )  # fmt: skip
    assert second == LONG


def test_csv_takes_cells_of_any_length(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text(f"prompt,completion\nWhy?,{'x' * 300_000}\n")
    assert read_file(tmp_path / "f.csv", "demonstrations").values() == [Demonstration(user("Why?"), "x" * 300_000)]


def test_parquet(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [
        {"chosen": [*TALK, ANSWER], "rejected": [*TALK, OTHER], "rater": "ann"},
        {"chosen": say("Why?", "Because."), "rejected": say("Why?", "No idea."), "rater": None},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
    first, second = read_file(tmp_path / "f.parquet", "comparisons").values()
    assert (first.prompt, first.origin.rater) == (TALK, "ann")
    assert second == BETTER


def test_text_has_one_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("Why?\n\n  [not json]  \r\n{Who?}")
    found = read_file(tmp_path / "f.txt", "prompts")
    assert found.values() == [user("Why?"), user("[not json]"), user("{Who?}")]
    assert [item.where for item in found.items] == ["line 1", "line 3", "line 4"]


def test_a_file_may_mix_formats(tmp_path: Path) -> None:
    rows = [TEXTS, TEXTS | {"prompt": "2"}, {"prompt": "Why?", "completions": ["x", "y", "z"], "ranks": [1, 2, 2]}]
    (tmp_path / "f.json").write_text(json.dumps(rows))
    found = read_file(tmp_path / "f.json", "comparisons")
    assert found.format == "preference+ranking"
    with Store(tmp_path / "x.db") as store:
        assert import_file(store, tmp_path / "f.json", "comparisons")["added"] == 3
        assert [row.value for row in store.rankings()] == [RANKED]


def test_duplicates_are_counted_and_skipped(tmp_path: Path) -> None:
    rows = [TEXTS, TEXTS, {"prompt": "Why?", "a": "No idea.", "b": "Because.", "winner": "b"}, TEXTS | {"prompt": "2"}]
    (tmp_path / "f.json").write_text(json.dumps(rows))
    with Store(tmp_path / "x.db") as store:
        report = import_file(store, tmp_path / "f.json", "comparisons")
        assert (report["added"], report["duplicates"]) == (2, 2)
        assert report.pop("understood").startswith("4 comparisons; read from ")
        assert report == {
            **{"file": "f.json", "kind": "comparisons", "format": "preference+judged-pair"},
            **{"added": 2, "duplicates": 2, "bad": 0, "other": 0},
        }
        again = import_file(store, tmp_path / "f.json", "comparisons")
        assert (again["added"], again["duplicates"]) == (0, 4)
        store.undo("comparisons", 1)
        assert import_file(store, tmp_path / "f.json", "comparisons")["added"] == 1
        assert import_file(store, tmp_path / "f.json", "prompts", queue="q")["added"] == 2
        assert import_file(store, tmp_path / "f.json", "prompts", queue="other")["added"] == 2
        assert len(store.prompts("q")) == 2
        assert import_file(store, tmp_path / "f.json", "demonstrations")["added"] == 2
        assert import_file(store, tmp_path / "f.json", "demonstrations")["duplicates"] == 4


def test_progress_is_told(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("".join(f"prompt {n}\n" for n in range(1200)))
    calls: list[tuple[int, int | None]] = []
    read_file(tmp_path / "f.txt", "prompts", lambda done, total: calls.append((done, total)))
    assert calls == [(500, 1201), (1000, 1201), (1200, 1200)]


def fake_hub(monkeypatch, answer) -> list[tuple]:
    asked: list[tuple] = []

    def load_dataset(*args):
        asked.append(args)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_the_hub_is_asked_for_what_is_no_file(tmp_path: Path, monkeypatch) -> None:
    asked = fake_hub(monkeypatch, {"test": [], "train": [TEXTS]})
    monkeypatch.chdir(tmp_path)
    found = read_file("owner/name:config", "comparisons")
    assert (found.values(), found.file, asked) == ([BETTER], "owner/name:config (train)", [("owner/name", "config")])
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").write_text(json.dumps(TEXTS))
    read_file("owner/name", "comparisons")
    assert len(asked) == 1  # the local file won


def test_a_hub_that_does_not_answer_is_one_line(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    fake_hub(monkeypatch, ConnectionError("no route\nto host"))
    with pytest.raises(DataError, match=r"owner/name is no file here.*no route to host.*check the spelling") as caught:
        read_file("owner/name", "comparisons")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n', "comparisons"),
        ('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 3 + '{"prompt": 7}\n', "comparisons"),
        ('{"prompt": "a", "completion": "b"}\n', "demonstrations"),
        ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n', "demonstrations"),
        ('{"prompt": "a"}\n', "prompts"),
        ("a question\nanother\n", "prompts"),
        ("", "prompts"),
    ],
)
def test_the_kind_of_a_file_is_guessed_from_its_rows(tmp_path, text, kind):
    path = tmp_path / ("f.txt" if text.startswith("a ") else "f.jsonl")
    path.write_text(text)
    assert guess_kind(path) == kind


def test_a_backup_is_known_as_one(tmp_path):
    with Store(tmp_path / "w.db") as store:
        store.add_prompts([user("a")])
        write_votes(store, tmp_path / "all.jsonl", "lossless")
    assert guess_kind(tmp_path / "all.jsonl") == "all"
