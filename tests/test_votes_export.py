"""What is written for other programs, and what comes back the same."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorarlhf.data.exporting import write_votes
from lorarlhf.data.importing import import_file, read_file
from lorarlhf.errors import DataError
from lorarlhf.store import Row, Store
from lorarlhf.types import Comparison, Demonstration, Message, Origin, Outcome, Ranking, user
from tests.votes import comparisons, demonstrations, prompts, rankings

VOTE = Comparison(user("Why?"), "Because.", "No idea.", Outcome.A)
TALK = tuple(Message(role=r, content=c) for r, c in [("user", "Hi"), ("assistant", "Hello!"), ("user", "Why?")])  # type: ignore[typeddict-item]


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "workspace.db") as opened:
        yield opened


def bring_back(file: Path, db: Path) -> list[Row]:
    """Import a lossless file into a new store; give its whole history."""
    with Store(db) as other:
        import_file(other, file, "all")
        return other.history()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_lossless_brings_back_the_same_rows(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("lossless")
    with Store(folder / "a.db") as store:
        votes = data.draw(st.lists(comparisons(), min_size=1, max_size=4))
        ids = store.add_comparisons(votes)
        store.add_comparisons([replace(vote, repeats=ids[0]) for vote in votes])
        store.add_rankings(data.draw(st.lists(rankings(), max_size=2)))
        store.add_demonstrations(data.draw(st.lists(demonstrations(), max_size=2)))
        store.add_prompts(data.draw(st.lists(prompts(), max_size=2)), queue="q")
        if data.draw(st.booleans()):
            store.undo("comparisons", ids[0])
        if data.draw(st.booleans()):
            store.replace("comparisons", ids[-1] + 1, votes[0])
        write_votes(store, folder / "all.jsonl", "lossless")
        expected = store.history()
    assert bring_back(folder / "all.jsonl", folder / "b.db") == expected


def test_lossless_twice_adds_nothing_and_merges_into_a_used_store(store: Store, tmp_path: Path) -> None:
    first = store.add_comparison(VOTE)
    again = store.add_comparison(replace(VOTE, repeats=first))
    store.undo("comparisons", first)
    report = write_votes(store, tmp_path / "all.jsonl.gz", "lossless")
    assert report["written"] == 2
    assert import_file(store, tmp_path / "all.jsonl.gz", "comparisons")["duplicates"] == 2
    assert [row.id for row in store.comparisons()] == [again]
    with Store(tmp_path / "used.db") as used:
        used.add_comparisons([replace(VOTE, a=str(n)) for n in range(5)])
        import_file(used, tmp_path / "all.jsonl.gz", "comparisons")
        rows = used.history("comparisons")
        assert [row.id for row in rows][5:] == [6, 7]
        assert rows[5].undone
        assert rows[6].value == replace(VOTE, repeats=6)  # the reference followed its row


def test_lossless_rows_also_give_prompts(store: Store, tmp_path: Path) -> None:
    store.add_comparison(VOTE)
    store.add_prompts([user("Who?")], queue="q")
    write_votes(store, tmp_path / "all.jsonl", "lossless")
    with Store(tmp_path / "b.db") as other:
        assert import_file(other, tmp_path / "all.jsonl", "prompts")["added"] == 2
        assert [(row.queue, row.value) for row in other.prompts()] == [("q", user("Who?")), ("", user("Why?"))]


def test_one_kind_can_be_taken_out_of_a_lossless_file(store: Store, tmp_path: Path) -> None:
    store.add_comparison(VOTE)
    store.add_ranking(Ranking(user("Who?"), ("x", "y"), (2, 1)))
    store.add_prompts([user("Who?")], queue="q")
    write_votes(store, tmp_path / "all.jsonl", "lossless")
    with Store(tmp_path / "b.db") as other:
        report = import_file(other, tmp_path / "all.jsonl", "comparisons")
        assert (report["added"], report["other"]) == (2, 1)
        with pytest.raises(DataError, match="holds no demonstrations, only 3 rows of another kind"):
            import_file(other, tmp_path / "all.jsonl", "demonstrations")
        (tmp_path / "p.jsonl").write_text('{"prompt": "x"}')
        with pytest.raises(DataError, match="line 1: is not of a lossless export"):
            import_file(other, tmp_path / "p.jsonl", "all")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_preference_is_what_trainers_read(store: Store, tmp_path: Path) -> None:
    store.add_comparisons([VOTE, replace(VOTE, prompt=TALK, outcome=Outcome.B)])
    store.add_comparisons(replace(VOTE, outcome=o) for o in (Outcome.TIE, Outcome.BOTH_BAD, Outcome.SKIP))
    store.undo("comparisons", store.add_comparison(replace(VOTE, a="undone")))
    store.add_ranking(Ranking(user("Who?"), ("x", "y", "z"), (2, 1, 2)))
    assert write_votes(store, tmp_path / "p.jsonl", "preference")["written"] == 4

    def answer(text: str) -> list[dict]:
        return [{"role": "assistant", "content": text}]

    who = [{"role": "user", "content": "Who?"}]
    assert lines(tmp_path / "p.jsonl") == [
        {"prompt": list(user("Why?")), "chosen": answer("Because."), "rejected": answer("No idea.")},
        {"prompt": list(TALK), "chosen": answer("No idea."), "rejected": answer("Because.")},
        {"prompt": who, "chosen": answer("y"), "rejected": answer("x")},
        {"prompt": who, "chosen": answer("y"), "rejected": answer("z")},
    ]
    assert len(read_file(tmp_path / "p.jsonl", "comparisons").items) == 4


def test_demonstrations_and_rankings(store: Store, tmp_path: Path) -> None:
    store.add_demonstration(Demonstration(TALK, "Because."))
    store.add_ranking(Ranking(user("Who?"), ("x", "y"), (2, 1)))
    write_votes(store, tmp_path / "d.jsonl", "demonstrations")
    write_votes(store, tmp_path / "r.jsonl", "ranking")
    assert lines(tmp_path / "d.jsonl") == [{"messages": [*TALK, {"role": "assistant", "content": "Because."}]}]
    assert read_file(tmp_path / "d.jsonl", "demonstrations").values() == [Demonstration(TALK, "Because.")]
    assert read_file(tmp_path / "r.jsonl", "comparisons").values() == [store.rankings()[0].value]


RISKY = ["=1+1", "+1", "-1", "@x", "\tx", "'=1", "''=1", "'quoted'", 'a\nb,"c"', "\n\nHuman: x"]
RISKY.append(json.dumps(TALK))


def test_csv_goes_to_a_spreadsheet_and_back(store: Store, tmp_path: Path) -> None:
    origin = Origin(rater="ann", round=2, seconds=1.5, adapters=("p", ""), note="=cmd()")
    votes = [
        replace(
            VOTE, a=text, b=f"{text}!", prompt=user(text), reasons=(text,), criteria={"kind": Outcome.B}, origin=origin
        )
        for text in RISKY
    ]
    votes.append(replace(VOTE, prompt=TALK, strength=2, left="b"))
    store.add_comparisons(votes)
    write_votes(store, tmp_path / "v.csv", "csv")
    with (tmp_path / "v.csv").open(newline="") as file:
        table = list(csv.reader(file))
    assert table[0][:6] == ["id", "created", "prompt", "a", "b", "outcome"]
    assert not [cell for row in table for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert read_file(tmp_path / "v.csv", "comparisons").values() == votes


def test_a_foreign_csv_keeps_its_quotes(tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("prompt,completion\nWhy?,'-x\n")
    assert read_file(tmp_path / "f.csv", "demonstrations").values() == [Demonstration(user("Why?"), "'-x")]


def test_files_are_whole_and_not_overwritten(store: Store, tmp_path: Path, monkeypatch) -> None:
    store.add_comparison(VOTE)
    path = tmp_path / "out" / "v.jsonl"
    with pytest.raises(DataError, match="there is no folder"):
        write_votes(store, path, "lossless")
    path.parent.mkdir()
    write_votes(store, path, "lossless")
    before = path.read_bytes()
    with pytest.raises(DataError, match="exists; choose another name"):
        write_votes(store, path, "preference")
    with pytest.raises(DataError, match="is a folder"):
        write_votes(store, tmp_path, "lossless", force=True)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match="No space left"):
        write_votes(store, path, "preference", force=True)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["v.jsonl"]
    monkeypatch.undo()
    (tmp_path / "reader").hardlink_to(path)
    write_votes(store, path, "preference", force=True)
    assert path.read_bytes() != before
    assert (tmp_path / "reader").read_bytes() == before  # whoever reads the old file still does: a rename


def test_formats_and_nothing_to_write(store: Store, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="did you mean preference"):
        write_votes(store, tmp_path / "x", "preferences")
    for format in ("lossless", "preference", "demonstrations", "ranking", "csv"):
        with pytest.raises(DataError, match=f"nothing that can be written as {format}"):
            write_votes(store, tmp_path / "x", format)
    assert not (tmp_path / "x").exists()


def test_gz_names_are_compressed(store: Store, tmp_path: Path) -> None:
    store.add_comparison(VOTE)
    write_votes(store, tmp_path / "v.jsonl.gz", "preference")
    assert json.loads(gzip.decompress((tmp_path / "v.jsonl.gz").read_bytes()))["prompt"] == list(user("Why?"))
