"""Rating without a browser: what is shown, what is stored, and what never leaves the server too early."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorarlhf.data.pairs import pairs_of_ranking
from lorarlhf.engine.client import Job
from lorarlhf.errors import DataError, SettingsError, StoreError
from lorarlhf.settings import LoadSettings, SamplingSettings
from lorarlhf.store import Store
from lorarlhf.types import Comparison, Origin, Outcome, Ranking, user
from lorarlhf.ui.markdown import told
from lorarlhf.ui.rate import consistency
from lorarlhf.ui.rate.pairs import AHEAD, REDRAWS
from lorarlhf.ui.rate.rating import RatingDesk
from lorarlhf.ui.rate.sheets import PERSON, VERDICTS, About, Recipe, Sheet, verdict_of
from lorarlhf.ui.rate.tally import progress
from lorarlhf.ui.readiness import milestone
from tests.rating_desk import FakeDesk, adapter, fake_desk, vote, wait_for, whole

ASSETS = Path(__file__).parent.parent / "ui/assets"
RECIPE = Recipe("base-1", (("left-1", "h1"), ("right-1", "h2")), SamplingSettings(), round=3)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[FakeDesk]:
    with fake_desk(tmp_path / "work") as made:
        yield made


@pytest.fixture
def rating(desk: FakeDesk) -> RatingDesk:
    return RatingDesk(desk, random.Random(0))  # type: ignore[arg-type]


# -- rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_verdict_survives_the_row_whichever_side_the_answers_stood_on(order):
    sheet = Sheet(user("?"), ["first", "second"], order, origin=RECIPE.origin(7), whole=True)
    about = About("me", "a note", ("safer",), {"honest": Outcome.A})
    for verdict in VERDICTS:
        row = sheet.comparison(verdict, about)
        assert (row.a, row.b) == ("first", "second")
        assert verdict_of(row) == verdict
        assert Sheet.of_comparison(row).placed == sheet.placed
        assert Sheet.of_comparison(row, swapped=True).placed == sheet.placed[::-1]
    better = sheet.comparison("a2", about)
    winner = better.a if better.outcome is Outcome.A else better.b
    assert (winner, better.strength) == (sheet.placed[0], 2)
    assert better.criteria["honest"] is better.outcome
    assert better.left == ("a" if order == (0, 1) else "b")
    assert better.origin.adapters == ("left-1", "right-1")
    assert (better.origin.source, better.origin.rater, better.origin.round) == ("app", "me", 3)
    assert better.origin.sampling["seeds"] == [7, 8]


@pytest.mark.parametrize(("better", "order"), [("a", ["mine", "B?", "A?"]), ("b", ["mine", "A?", "B?"])])
def test_a_written_answer_is_worth_imitating_and_beats_both(better, order):
    sheet = Sheet(user("?"), ["A?", "B?"], (1, 0), origin=RECIPE.origin(7), whole=True)
    demonstration, ranking = sheet.written(" mine ", 0, better, About())
    assert demonstration.response == "mine"
    assert ranking.origin.adapters == (PERSON, "right-1", "left-1")
    chosen = [(pair.chosen, pair.rejected) for pair in pairs_of_ranking(ranking)]
    assert chosen == [(order[0], sheet.placed[0]), (order[0], sheet.placed[1]), (order[1], order[2])]
    assert sum(pair.weight for pair in pairs_of_ranking(ranking)) == pytest.approx(1)
    assert Sheet.of_ranking(ranking).placed == sheet.placed
    assert Sheet.of_ranking(ranking).sources == ["right-1", "left-1"]
    for text in ("", " A? "):
        with pytest.raises(DataError):
            sheet.written(text, 0, "a", About())


# -- drawing --------------------------------------------------------------------------------------------------


def test_pairs_are_drawn_ahead_and_nothing_tells_where_they_come_from_until_asked(desk, rating):
    desk.saved = [adapter("sft-1"), adapter("ppo-1"), adapter("reward-1")]
    rating.ask({"do": "prefer", "values": {"first": "ppo-1", "second": "sft-1"}})
    view = whole(rating, ahead=AHEAD)
    assert all(word not in json.dumps(view) for word in ("sft-1", "ppo-1", "hash of", "seed"))
    reply = vote(rating, "b2")
    assert reply["said"] == "Saved: B much better"
    assert reply["sheet"]["whole"]  # the next pair comes with the reply
    assert reply["sheet"]["id"] != view["sheet"]["id"]
    assert all(word not in json.dumps(reply) for word in ("sft-1", "ppo-1", "hash of", "seed"))
    row = desk.store.comparisons()[0].value
    assert row.origin.adapters == ("ppo-1", "sft-1")
    assert row.origin.adapter_hashes == ("hash of ppo-1", "hash of sft-1")
    left = row.origin.adapters[0 if row.left == "a" else 1]
    assert rating.ask({"do": "reveal"})["sources"][0] == left
    calls = [call for call in desk.engine.asked if call["prompt"] == row.prompt]
    by_adapter = {call["adapter"]: call["seed"] for call in calls}
    assert row.origin.sampling["seeds"] == [by_adapter["ppo-1"], by_adapter["sft-1"]]
    # The left one is drawn first, whichever adapter it is; what was drawn before the adapters were chosen is gone.
    assert calls[-2]["adapter"] == left


def test_sides_are_chance(desk, rating):
    for _ in range(30):
        vote(rating)
    lefts = [row.value.left for row in desk.store.comparisons()]
    assert 3 < lefts.count("a") < 27


def test_the_newest_policy_answers_unless_another_is_chosen(desk, rating):
    assert rating.recipe().adapters == (("", "base-1"),) * 2
    desk.saved = [adapter("sft-1"), adapter("ppo-1"), adapter("sft-2"), adapter("reward-1")]
    assert rating.recipe().adapters[0] == ("ppo-1", "hash of ppo-1")
    rating.ask({"do": "prefer", "values": {"first": "base", "second": "sft-2", "answers": 3}})
    assert [name for name, _ in rating.recipe().adapters] == ["", "sft-2", ""]
    rating.ask({"do": "prefer", "values": {"first": "gone-7", "second": ""}})
    assert rating.recipe().adapters[0][0] == "ppo-1"


def test_equal_answers_are_drawn_again_then_shown_with_a_word(desk, rating):
    desk.engine.answer = lambda call, k: "same" if call < 2 else f"differs {k}"
    view = whole(rating)
    assert sorted(view["sheet"]["answers"]) == ["differs 0", "differs 1"]
    assert not view["sheet"]["equal"]
    desk.engine.answer = lambda call, k: ""
    before = len(desk.engine.asked)
    rating.ask({"do": "again", "sheet": view["sheet"]["id"]})
    wait_for(lambda: whole(rating)["sheet"]["equal"])
    prompt = whole(rating)["sheet"]["prompt"]
    tries = [call for call in desk.engine.asked[before:] if told(call["prompt"]) == prompt]
    assert len(tries) == 1 + REDRAWS
    assert len({call["seed"] for call in tries}) == len(tries)


def test_a_killed_engine_costs_nothing_but_time(desk, rating):
    desk.engine.alive = False
    wait_for(lambda: len(desk.engine.asked) or (rating.ask({"do": "look"}) and None))
    desk.state = "loading"
    assert "on its way" in wait_for(lambda: rating.ask({"do": "look"}).get("wait"))
    desk.engine.alive, desk.state = True, "ready"
    assert whole(rating)["sheet"]["answers"]


def test_while_the_engine_trains_what_was_drawn_can_be_rated(desk, rating):
    whole(rating, ahead=AHEAD)
    desk.engine.jobs = [SimpleNamespace(kind="train")]
    asked = len(desk.engine.asked)
    for _ in range(AHEAD + 1):
        reply = vote(rating)
    assert reply["sheet"] is None
    assert "Training" in reply["wait"]
    assert len(desk.engine.asked) == asked
    desk.engine.jobs = []
    assert whole(rating)


def test_another_base_or_policy_replaces_what_was_drawn_ahead_but_not_what_is_being_read(desk, rating):
    reading = whole(rating, ahead=AHEAD)["sheet"]
    desk.fingerprint = "base-2"
    wait_for(lambda: rating.tray.sheets[-1].recipe.base == "base-2" and len(rating.tray.sheets) > AHEAD)
    assert whole(rating, ahead=AHEAD)["sheet"] == reading
    assert [sheet.recipe.base for sheet in rating.tray.sheets] == ["base-1"] + ["base-2"] * AHEAD


def test_a_pair_and_its_undo_do_not_outlive_their_base(desk, rating):
    old = whole(rating)["sheet"]["id"]
    desk.store.belong("base-1")
    assert vote(rating)["undoable"] == 1
    desk.load_settings = LoadSettings(base="another")
    desk.fingerprint, desk.state = "base-2", "loading"
    desk.store.belong("base-2")
    seen = rating.ask({"do": "look", "shelf": "of before"})
    assert seen["sheet"] is None
    assert seen["progress"]["total"] == 0
    assert rating.ask({"do": "vote", "sheet": old, "verdict": "a1"})["wrong"]
    assert "about another base" in rating.ask({"do": "undo"})["said"]
    desk.store.belong("base-1")
    assert len(desk.store.comparisons()) == 1


def test_an_adapter_that_cannot_answer_is_said_not_looped(desk, rating):
    def generate(*args: Any) -> Job:
        job = Job(SimpleNamespace(), 1, "generate", 2)  # type: ignore[arg-type]
        desk.engine.asked.append({})
        job._end(DataError("the template refuses this conversation"))
        return job

    desk.engine.generate = generate
    view = wait_for(lambda: (v := rating.ask({"do": "look"}))["sheet"] and v["sheet"]["problem"] and v)
    assert "refuses" in view["sheet"]["problem"]
    wait_for(lambda: len(desk.engine.asked) == AHEAD + 1)
    refused = rating.ask({"do": "vote", "sheet": view["sheet"]["id"], "verdict": "a1"})
    assert refused["wrong"]


# -- saying ---------------------------------------------------------------------------------------------------


def test_a_vote_is_on_disk_before_the_reply_and_counts_once(desk, rating):
    first = whole(rating)["sheet"]["id"]
    rating.ask({"do": "vote", "sheet": first, "verdict": "tie"})
    with Store(desk.store.path) as other:
        assert [row.value.outcome for row in other.comparisons()] == [Outcome.TIE]
    again = rating.ask({"do": "vote", "sheet": first, "verdict": "a1"})
    assert again["wrong"]
    assert "already" in again["said"]
    assert desk.store.counts()["comparisons"] == 1


@pytest.mark.parametrize(
    "payload",
    [{"do": "vote", "verdict": "best"}, {"do": "rank", "ranks": ["x"]}, {"do": "edit", "place": "x"}, {"do": "dance"}],
)
def test_nonsense_is_refused_and_changes_nothing(desk, rating, payload):
    reply = rating.ask({"sheet": whole(rating)["sheet"]["id"], **payload})
    assert reply["wrong"]
    assert not sum(desk.store.counts().values())


def test_undo_goes_back_as_far_as_one_likes_and_shows_each_pair_again(desk, rating):
    seen = []
    for number in range(25):
        seen.append(whole(rating)["sheet"]["answers"])
        vote(rating, list(VERDICTS)[number % len(VERDICTS)])
    after_restart = RatingDesk(desk)  # type: ignore[arg-type]
    for answers in reversed(seen):
        assert after_restart.ask({"do": "undo"})["sheet"]["answers"] == answers
    assert desk.store.counts()["comparisons"] == 0
    assert desk.store.counts()["undone"] == 25
    assert after_restart.ask({"do": "undo"})["said"] == "there is nothing to undo"
    vote(after_restart, "b1")
    assert desk.store.counts()["comparisons"] == 1


def test_an_edit_is_stored_whole_or_not_at_all_and_undone_whole(desk, rating, monkeypatch):
    sheet = whole(rating)["sheet"]
    payload = {"do": "edit", "sheet": sheet["id"], "place": 1, "text": "Mine.", "better": "b"}
    insert, calls = desk.store.insert, []

    def fail_second(*args: Any, **kwargs: Any) -> int:
        calls.append(args)
        if len(calls) == 2:
            raise StoreError("the disk is full")
        return insert(*args, **kwargs)

    monkeypatch.setattr(desk.store, "insert", fail_second)
    assert rating.ask(payload)["said"] == "the disk is full"
    assert not sum(desk.store.counts().values())
    monkeypatch.undo()
    assert rating.ask(payload)["said"] == "Saved: your answer: yours > B > A"
    assert [row.value.response for row in desk.store.demonstrations()] == ["Mine."]
    assert desk.store.rankings()[0].value.completions == ("Mine.", *sheet["answers"])
    assert rating.ask({"do": "undo"})["sheet"]["answers"] == sheet["answers"]
    assert desk.store.counts()["demonstrations"] == desk.store.counts()["rankings"] == 0


def test_ranking_several_with_ties(desk, rating):
    rating.ask({"do": "prefer", "values": {"answers": 4}})
    sheet = whole(rating)["sheet"]
    reply = rating.ask({"do": "rank", "sheet": sheet["id"], "ranks": [5, 1, 5, 9]})
    assert reply["said"] == "Saved: 2 > 1 = 3 > 4"
    said = desk.store.rankings()[0].value
    assert said.completions == tuple(sheet["answers"])
    assert said.ranks == (2, 1, 2, 3)
    assert rating.ask({"do": "undo"})["sheet"]["answers"] == sheet["answers"]


def test_criteria_reasons_and_note_are_stored_when_they_are_asked_for(desk, rating):
    rating.ask({"do": "prefer", "values": {"criteria": ["honest", "funny"], "own": ["funny"], "rater": "Ada"}})
    given = {"criteria": {"honest": "b", "funny": "tie", "smuggled": "a"}, "reasons": ["safer", "?"], "note": "hm"}
    vote(rating, "a1", **given)
    said = desk.store.comparisons()[0].value
    b_on_page = Outcome.B if said.left == "a" else Outcome.A
    assert said.criteria == {"honest": b_on_page, "funny": Outcome.TIE}
    assert said.reasons == ("safer",)
    assert (said.origin.rater, said.origin.note) == ("Ada", "hm")
    assert said.origin.seconds is not None
    assert RatingDesk(desk).chosen.rater == "Ada"  # type: ignore[arg-type]
    reply = rating.ask({"do": "prefer", "values": {"answers": 7}})
    assert reply["wrong"]
    assert "answers" in reply["said"]


# -- prompts --------------------------------------------------------------------------------------------------


def test_the_preferred_answer_continues_the_chat(desk, rating):
    rating.ask({"do": "prefer", "values": {"source": "chat"}})
    assert rating.ask({"do": "type", "text": " "})["wrong"]
    rating.ask({"do": "type", "text": "Hello"})
    sheet = whole(rating)["sheet"]
    assert rating.ask({"do": "type", "text": "too early"})["wrong"]
    reply = vote(rating, "b1")
    assert reply["sheet"] is None
    assert [turn["content"] for turn in reply["turns"]] == ["Hello", sheet["answers"][1]]
    rating.ask({"do": "type", "text": "And then?"})
    assert len(whole(rating)["sheet"]["prompt"]) == 3
    vote(rating, "both_bad")  # the same turn is answered again
    assert len(whole(rating)["sheet"]["prompt"]) == 3
    restarted = RatingDesk(desk)  # type: ignore[arg-type]
    assert len(whole(restarted)["sheet"]["prompt"]) == 3
    restarted.ask({"do": "undo"})
    back = restarted.ask({"do": "undo"})
    assert back["sheet"]["answers"] == sheet["answers"]
    assert [turn["content"] for turn in vote(restarted, "a1")["turns"]] == ["Hello", sheet["answers"][0]]
    assert restarted.ask({"do": "next"})["turns"] == []


def test_typed_prompts_wait_in_line_and_survive_a_restart(desk, rating):
    rating.ask({"do": "prefer", "values": {"source": "typed"}})
    for text in ("one", "two", "one"):
        rating.ask({"do": "type", "text": text})
    assert whole(rating)["sheet"]["prompt"][0]["content"] == "one"
    vote(rating)
    restarted = RatingDesk(desk)  # type: ignore[arg-type]
    asked = []
    for _ in range(2):
        asked.append(whole(restarted)["sheet"]["prompt"][0]["content"])
        vote(restarted)
    assert asked == ["two", "one"]
    assert "Type a prompt" in restarted.ask({"do": "look"})["wait"]
    assert [row.queue for row in desk.store.prompts()] == ["typed"] * 3


def test_imported_prompts_come_first_each_before_any_comes_twice(desk, rating):
    assert rating.source == "starter"
    desk.store.add_prompts([user(f"prompt {i}") for i in range(7)])
    assert rating.source == "queue"
    asked = []
    for _ in range(14):
        asked.append(whole(rating)["sheet"]["prompt"][0]["content"])
        vote(rating)
    assert len(set(asked[:7])) == len(set(asked[7:])) == 7
    desk.load_settings = LoadSettings(base="some/other")
    assert rating.source == "queue"
    for row in desk.store.prompts():
        desk.store.undo("prompts", row.id)
    assert rating.source == "everyday"
    assert "imported" in rating.ask({"do": "prefer", "values": {"source": "queue"}})["wait"]


# -- consistency, progress, history ---------------------------------------------------------------------------


def test_some_pairs_are_asked_again_with_sides_swapped(desk, rating, monkeypatch):
    for _ in range(consistency.LATER + 4):
        vote(rating, "a1")
    assert all(row.value.repeats is None for row in desk.store.comparisons())
    monkeypatch.setattr(consistency, "SHARE", 1)
    while not (repeated := [row.value for row in desk.store.comparisons() if row.value.repeats]):
        vote(rating, "a1")
    first = desk.store.some("comparisons", [repeated[0].repeats])[0].value
    assert (repeated[0].a, repeated[0].b) == (first.a, first.b)
    assert repeated[0].left != first.left
    # The same key on swapped sides means the other answer.
    assert repeated[0].outcome is first.outcome.swap()
    assert rating.tally()["progress"]["agreement"] == "Consistency: 0 of 1 re-asked pair"
    rating.ask({"do": "prefer", "values": {"repeats": False}})
    rating.tray.clear()
    whole(rating, ahead=AHEAD)
    assert all(sheet.repeats is None for sheet in rating.tray.sheets)


def test_agreement_follows_changes_and_leaves_out_what_was_undone(desk):
    said = Comparison(user("?"), "x", "y", Outcome.A, origin=Origin(source="app"))
    first = desk.store.add_comparison(said)
    second = desk.store.add_comparison(Comparison(**{**vars(said), "left": "b", "repeats": first}))
    assert consistency.agreement(desk.store, "") == (1, 1)
    changed = desk.store.replace("comparisons", first, Comparison(**{**vars(said), "outcome": Outcome.B}))
    assert consistency.agreement(desk.store, "") == (1, 0)
    assert consistency.agreement(desk.store, "somebody else") == (0, 0)
    desk.store.undo("comparisons", changed)
    assert consistency.agreement(desk.store, "") == (0, 0)
    desk.store.undo("comparisons", second)
    assert consistency.agreement(desk.store, "").words == ""


def test_a_new_adapter_is_offered_without_reloading_the_page(desk, rating):
    stale = {"do": "look", "stamp": 0, "shelf": rating.view()["shelf"]}
    assert "choices" not in rating.ask(stale)
    desk.saved.append(adapter("sft-9"))
    (desk.workspace.adapters_dir / "sft-9").mkdir()
    told = rating.ask(stale)
    assert ["sft-9", "sft-9"] in told["choices"]["adapters"]
    assert "progress" in told  # what comes next depends on the reward models there are


def test_an_answer_that_the_limit_ended_says_so_where_it_stands(desk, rating):
    desk.engine.ended = False  # the first of two is cut
    sheet = whole(rating)["sheet"]
    assert sheet["cut"] == [text.endswith(".0") for text in sheet["answers"]]
    assert sum(sheet["cut"]) == 1


def test_who_never_voted_is_told_what_this_is(desk, rating):
    desk.load_settings = LoadSettings(base="/models/Some-1B")
    assert rating.ask({"do": "open"})["welcome"] == "Teach Some-1B what you like. Read two answers, press 1 to 5."
    desk.load_settings = LoadSettings()
    assert "Teach a small shop assistant manners" in rating.ask({"do": "open"})["welcome"]
    whole(rating)
    assert vote(rating)["welcome"] == ""
    desk.store.undo("comparisons", 1)  # what was taken back was said all the same
    assert rating.ask({"do": "open"})["welcome"] == ""


def test_progress_in_numbers_and_words(desk, rating):
    assert milestone(38, None) == "12 more for a first reward model"
    assert milestone(50, None) == "Enough for a first try. Train the reward model"
    assert milestone(80, 20) == "30 more before it pays to retrain"
    assert milestone(150, 60).endswith("about 400 votes make it reliable")
    assert milestone(460, 60) == "Retrain: 60 new votes"
    desk.store.add_comparison(Comparison(user("?"), "x", "y", Outcome.A))
    desk.store.add_ranking(Ranking(user("?"), ("x", "y", "z"), (1, 2, 3)))
    vote(rating, "skip")
    vote(rating)
    told = progress(desk.store, "", [])
    assert (told["today"], told["total"]) == (1, 3)


def test_earlier_votes_can_be_looked_at_changed_and_taken_back(desk, rating):
    for verdict in ("a1", "b1", *["tie"] * 10):
        vote(rating, verdict)
    newest = rating.ask({"do": "history", "page": 0})["history"]
    assert (newest["pages"], newest["count"], len(newest["rows"])) == (2, 12, 10)
    older = rating.ask({"do": "history", "page": 9})["history"]
    assert [row["verdict"] for row in older["rows"]] == ["b1", "a1"]
    row = older["rows"][1]
    reply = rating.ask({"do": "change", "kind": row["kind"], "id": row["id"], "verdict": "b2", "page": 1})
    assert [row["verdict"] for row in reply["history"]["rows"]] != ["b1", "a1"]
    assert desk.store.counts()["comparisons"] == 12
    old = desk.store.some("comparisons", [row["id"]])[0]
    assert verdict_of(old.value) == "a1"
    assert old.undone
    assert verdict_of(desk.store.some("comparisons", [old.replaced_by])[0].value) == "b2"
    assert rating.ask({"do": "change", "kind": row["kind"], "id": row["id"], "verdict": "a1"})["wrong"]
    rating.ask({"do": "take_back", "kind": "comparisons", "id": older["rows"][0]["id"]})
    for _ in range(11):
        rating.ask({"do": "undo"})  # the changed row is undone in its turn, the one taken back is not
    assert desk.store.counts()["comparisons"] == 0
    assert rating.ask({"do": "undo"})["wrong"]


# -- the page -------------------------------------------------------------------------------------------------


def test_templates_hold_nothing_that_gradio_would_run():
    for name in ("rate.html", "rate.css"):
        text = (ASSETS / name).read_text()
        assert not [mark for mark in ("`", "${", "{{", "\\") if mark in text], name
    for script in ASSETS.glob("rate*.js"):
        text = script.read_text()
        # One place takes HTML: what the server's sanitiser has let through.
        assert text.count("innerHTML") == (script.name == "rate_text.js"), script
        assert not [word for word in ("outerHTML", "insertAdjacentHTML", "eval(") if word in text], script


def test_wrong_preferences_of_another_release_are_left_out(desk):
    desk.store.set_meta("rating", {"answers": 99, "colour": "red"})
    assert RatingDesk(desk).chosen.answers == 2
    with pytest.raises(SettingsError, match="criteria"):
        type(RatingDesk(desk).chosen).parse({"criteria": ["x" * 60]}, "rating")
