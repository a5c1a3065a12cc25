"""The Data tab, without a browser: what is found, what an upload may be, and what it never brings with it."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys

import pytest

from lorarlhf.data.exporting import EXPORT_FORMATS
from lorarlhf.errors import DataError, LoraRlhfError
from lorarlhf.types import Comparison, Demonstration, Message, Origin, Outcome, Ranking, user
from lorarlhf.ui.data import browsing
from lorarlhf.ui.data.browsing import PAGE, Filters
from lorarlhf.ui.data.browsing_html import list_html, overview_html, row_html, verdict
from lorarlhf.ui.rate.vote_history import History
from lorarlhf.workspace import Workspace

EVIL = "<img src=x onerror=alert(1)> ${alert(2)} {{3*3}}"


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path / "work").open()


@pytest.fixture
def store(place):
    with place.store() as store:
        yield store


def vote(n: int, outcome: Outcome = Outcome.A, left: str = "a", rater: str = "ann") -> Comparison:
    origin = Origin(rater=rater, source="app")
    return Comparison(user(f"Question {n}?"), f"yes {n}", f"no {n}", outcome, left=left, origin=origin)


def test_rows_are_found_by_kind_words_rater_outcome_and_list(store):
    store.add_comparisons([vote(1), vote(2, Outcome.TIE, rater="bob"), vote(3, Outcome.B)])
    store.add_prompts([user("where is it?")], "mail")
    store.add_prompts([user("When?")])

    def ids(**filters):
        return [row.id for row in browsing.look(store, Filters(**filters)).rows]

    assert ids() == [3, 2, 1]
    assert ids(outcome="tie") == ids(rater="bob") == ids(text="NO 2") == [2]
    assert ids(text="question yes") == [3, 2, 1]
    assert ids(text="yes 1 elsewhere") == []
    assert ids(kind="prompts") == [2, 1]
    assert ids(kind="prompts", queue="mail", rater="bob", outcome="tie") == [1]  # left over from another kind
    store.undo("comparisons", 2)
    assert ids() == [3, 1]
    assert ids(gone=True) == [3, 2, 1]
    assert browsing.choices(store, "comparisons")["rater"] == ["ann", "bob"]
    assert browsing.choices(store, "prompts") == {"outcome": [], "rater": [], "queue": ["mail"], "source": []}
    assert browsing.choices(store, "comparisons")["source"] == ["app"]
    assert (ids(source="app"), ids(source="import")) == ([3, 1], [])
    # What is in no row of this kind may be in one of another.
    page = browsing.look(store, Filters(text="where"))
    assert page.told == "No matches (1 in Prompts)"
    assert "No matches. 1 in Prompts." in list_html(page)


def test_pages_hold_every_row_once_and_none_is_past_the_end(store):
    store.add_comparisons(vote(n) for n in range(PAGE * 2 + 1))
    pages = [browsing.look(store, Filters(), number) for number in range(3)]
    assert [row.id for page in pages for row in page.rows] == list(range(PAGE * 2 + 1, 0, -1))
    assert [page.told for page in pages] == ["1–20 of 41", "21–40 of 41", "41–41 of 41"]
    assert browsing.look(store, Filters(), 99).number == 2
    assert browsing.look(store, Filters(), -1).number == 0
    assert browsing.look(store, Filters(text="nowhere")).told == "No matches"


def test_a_prompts_wording_is_replaced_and_the_old_one_kept(store):
    turns = (*user("Hello"), Message(role="assistant", content="Hi."), *user("old wording"))
    (id,) = store.add_prompts([turns], "mail")
    new = browsing.edit_prompt(store, id, "  new wording ")
    (row,) = store.prompts("mail")
    assert (row.id, row.value) == (new, (*turns[:2], *user("new wording")))
    assert browsing.find(store, "prompts", id).replaced_by == new
    assert browsing.edit_prompt(store, new, "new wording") == new
    for bad, words in ((new, " "), (id, "gone"), (99, "never was")):
        with pytest.raises(LoraRlhfError):
            browsing.edit_prompt(store, bad, words)
    assert len(store.history("prompts")) == 2


def test_an_answer_is_mended_and_the_old_one_kept(store):
    (told,) = store.add_demonstrations([Demonstration(user("a?"), "teh answer")])
    mended = browsing.edit_answer(store, told, " the answer ")
    assert [row.value.response for row in store.demonstrations()] == ["the answer"]
    assert browsing.find(store, "demonstrations", told).replaced_by == mended
    assert browsing.edit_answer(store, mended, "the answer") == mended
    for id, text in ((mended, " "), (told, "gone"), (99, "never was")):
        with pytest.raises(LoraRlhfError):
            browsing.edit_answer(store, id, text)


def test_a_verdict_changed_elsewhere_is_what_is_undone_next(store):
    acts, elsewhere = History(store), History(store)
    acts.add([vote(1)])
    acts.add([vote(2, Outcome.A, left="b")])
    new = elsewhere.change("comparisons", 2, "a2")  # by place: the left one is much better, which is b
    row = browsing.find(store, "comparisons", new)
    assert (row.value.outcome, row.value.strength) == (Outcome.B, 2)
    assert browsing.find(store, "comparisons", 2).replaced_by == new
    assert elsewhere.change("comparisons", new, "a2") == new
    assert acts.undo().prompt == user("Question 2?")  # not the vote before it
    assert [row.value.prompt for row in store.comparisons()] == [user("Question 1?")]
    for id, words in ((2, "a1"), (1, "perhaps")):
        with pytest.raises(LoraRlhfError):
            acts.change("comparisons", id, words)


def test_sides_and_held_out_prompts_are_counted(store):
    votes = [
        vote(1),
        vote(2, left="b"),
        vote(3, Outcome.B, left="b"),
        vote(4, Outcome.B),
        vote(5, Outcome.TIE),
        vote(6, left="b"),
    ]
    # What a file brought has no sides.
    brought = Comparison(user("brought"), "yes", "no", Outcome.A)
    store.add_comparisons([*votes, vote(1, Outcome.BOTH_BAD), brought])
    assert browsing.sides(store) == {"left": 2, "right": 3}
    store.add_prompts([user(f"Prompt {n}") for n in range(200)])
    whole, kept = browsing.held_out(store)
    assert whole == 207
    assert 10 < kept < 35  # a tenth of them, by a hash
    assert "Outcomes: one is better 6, tie 1, both bad 1" in overview_html(store)


def test_letters_are_those_the_person_saw(store):
    store.add_comparisons([vote(1, Outcome.B, left="b"), vote(2, Outcome.B)])
    swapped, plain = store.comparisons()
    assert (verdict(swapped), verdict(plain)) == ("A is better", "B is better")
    assert browsing.answers_of(swapped.value) == [swapped.value.b, swapped.value.a]
    assert browsing.Filters(outcome="a").let(swapped)
    assert not browsing.Filters(outcome="a").let(plain)


def test_a_good_upload_comes_in_once_and_is_deleted(place, store, tmp_path):
    for expected in ({"added": 2, "duplicates": 0}, {"added": 0, "duplicates": 2}):
        file = tmp_path / "mine.txt"
        file.write_text("one?\ntwo?\n")
        found = browsing.bring_in(place, file, "prompts", " mail ")
        assert expected.items() <= found.items()
        assert not file.exists()
    assert [row.queue for row in store.prompts()] == ["mail", "mail"]
    assert browsing.happened(found) == "mine.txt: 0 prompts added; 2 duplicates left out"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("bad.jsonl", b'{"prompt": "a", "completion": "b"}\n{"prompt": 3}\n', "line 2: field completion is missing"),
        ("page.html", b"<html>", "page.html is of no known type"),
        ("mine.jsonl", b"", "is empty"),
        ("torn.jsonl.gz", gzip.compress(b'{"prompt": "a"}' * 99, mtime=0)[:40], "is cut off"),
        ("sheet.csv", b"PK\x03\x04", "save it as CSV first"),
    ],
)
def test_a_bad_upload_changes_nothing_and_says_why(place, store, tmp_path, name, content, why):
    folder = tmp_path / "upload"
    folder.mkdir()
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=why) as error:
        browsing.bring_in(place, folder / name, "demonstrations")
    assert str(folder) not in str(error.value)
    assert "\n" not in str(error.value)
    assert not (folder / name).exists()
    assert not store.history()


def test_too_large_a_file_is_refused_also_where_it_is_large_only_unpacked(place, tmp_path, monkeypatch):
    monkeypatch.setattr(browsing, "LARGEST", 4000)
    large, bomb, fine = tmp_path / "large.txt", tmp_path / "bomb.txt", tmp_path / "fine.txt.gz"
    large.write_text("x" * 4001)
    bomb.write_bytes(gzip.compress(b"x" * 10**6))  # told by its content, not by its name
    fine.write_bytes(gzip.compress(b"x" * 10_000))
    assert bomb.stat().st_size < 4000
    for file, words in ((large, "MB are not taken"), (bomb, "MB unpacked are not taken")):
        with pytest.raises(DataError, match=f"{file.name} is too large: more than .* {words}"):
            browsing.bring_in(place, file, "prompts")
    assert browsing.bring_in(place, fine, "prompts")["added"] == 1


def test_the_starters_data_is_one_click_away(place, store):
    assert browsing.bring_in_starter(place, "prompts")["added"] > 100
    assert browsing.bring_in_starter(place, "demonstrations")["added"] > 100
    assert browsing.bring_in_starter(place, "prompts")["added"] == 0
    assert browsing.choices(store, "prompts")["queue"] == ["starter"]


@pytest.mark.parametrize("name", ["", "plain", "--help", "a/b/c", "../x/y", "/etc/passwd", "-a/b", "a/b;c"])
def test_only_names_of_hub_data_sets_reach_the_command_line(place, name, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: pytest.fail("it was run"))
    with pytest.raises(DataError, match="owner/name"):
        browsing.bring_in_hub(place, name, "prompts")


def test_a_hub_import_runs_elsewhere_and_its_error_is_passed_on(place):
    with pytest.raises(DataError, match="nobody/nothing is no file here, and the Hub gave no data set") as error:
        browsing.bring_in_hub(place, "nobody/nothing", "prompts")
    assert not str(error.value).startswith("lorarlhf")


@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_every_form_is_written_into_the_exports(place, store, form):
    with pytest.raises(DataError, match="nothing that can be written"):
        browsing.take_out(place, form)
    store.add_comparison(vote(1))
    store.add_ranking(Ranking(user("Rank"), ("a", "b"), (1, 2)))
    store.add_demonstration(Demonstration(user("Show"), "how"))
    for _ in range(2):  # the second time over the first
        path = browsing.take_out(place, form)
    assert path.parent == place.exports_dir
    assert path.suffix == (".csv" if form == "csv" else ".jsonl")
    assert path.read_text().strip()
    if form == "lossless":
        assert len([json.loads(line) for line in path.read_text().splitlines()]) == 3


def test_rows_are_shown_as_text_whatever_they_hold(store):
    origin = Origin(rater=EVIL, note=EVIL, source=EVIL, adapters=(EVIL, ""))
    vote = Comparison(user(EVIL), EVIL, EVIL, Outcome.A, 2, criteria={EVIL: Outcome.B}, reasons=(EVIL,), origin=origin)
    store.add_comparison(vote)
    store.add_prompts([user(EVIL)], EVIL)
    store.add_ranking(Ranking(user(EVIL), (EVIL, EVIL), (1, 1), origin))
    store.add_demonstration(Demonstration(user(EVIL), EVIL, origin))
    for row in store.history():
        for written in (row_html(row), list_html(browsing.look(store, Filters(kind=row.kind)))):
            assert "<img" not in written
            assert "&lt;img src=x" in written
    assert [verdict(row) for row in store.history()] == ["A is much better", "2 ranked", "", ""]


LIGHT = """
import sys
import lorarlhf.ui.app
from lorarlhf.data.importing import read_file
import pyarrow, pyarrow.parquet
pyarrow.parquet.write_table(pyarrow.table({"prompt": ["a?", "b?"]}), sys.argv[1])
assert len(read_file(sys.argv[1], "prompts").values()) == 2
print({"torch", "transformers", "peft", "datasets"} & set(sys.modules))
"""


def test_neither_the_pages_nor_any_file_type_load_what_is_heavy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, str(tmp_path / "x.parquet")], capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "set()", done.stdout + done.stderr
