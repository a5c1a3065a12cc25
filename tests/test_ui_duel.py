"""Blind comparisons without a browser: what a page is told and when, and that a vote is on disk before all else."""

from __future__ import annotations

import json
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lorarlhf.evaluate.duels import Result, result_of
from lorarlhf.library import CARD, list_saved, read_saved
from lorarlhf.store import Store
from lorarlhf.types import Outcome, prompt_key, user
from lorarlhf.ui.judge.duel_desk import DuelDesk
from lorarlhf.ui.rate.preferences import load_preferences
from lorarlhf.ui.rate.sheets import Sheet
from tests.rating_desk import FakeDesk, put_checkpoint, wait_for

EVIL = "<img src=x onerror=alert(1)>"


class Desk(FakeDesk):
    """A desk with a starter base and three adapters on disk."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.memory = {"base": {"name": "starter", "fingerprint": "base-1"}}
        for number, name in enumerate(("sft-1", "ppo-1", "ppo-2", "reward-1")):
            put(self, name, number)

    def adapters(self, stage: str = "") -> list[Any]:
        return [saved for saved in list_saved(self.workspace.adapters_dir) if stage in ("", saved.stage)]


def put(desk: FakeDesk, name: str, number: int) -> None:
    folder = desk.workspace.adapters_dir / name
    folder.mkdir()
    hashes = {"adapter": f"hash-of-{name}", **({"head": "h"} if name.startswith("reward") else {})}
    card = {"hashes": hashes, "base": {"fingerprint": "base-1", "name": "starter"}, "stage": name.split("-")[0]}
    # From elsewhere, and all prompts were kept apart: every prompt is new to it.
    (folder / CARD).write_text(json.dumps({**card, "created": str(number), "settings": {"heldout_share": 1.0}}))


@pytest.fixture
def desk(tmp_path):
    desk = Desk(tmp_path / "work")
    yield desk
    desk.store.close()


@pytest.fixture
def duels(desk):
    duels = DuelDesk(desk)
    yield duels
    duels.tray._watched = 0.0


def begin(duels: DuelDesk, *names: str, **how: Any) -> dict[str, Any]:
    return duels.ask({"do": "begin", "names": list(names or ("ppo-1", "sft-1")), **how})


def front(duels: DuelDesk) -> Sheet:
    """Wait for a pair that can be voted on."""

    def whole() -> Sheet | None:
        duels.ask({"do": "look"})
        sheet = duels.tray.front
        return sheet if sheet and sheet.whole else None

    return wait_for(whole)


def vote(duels: DuelDesk, verdict: str) -> dict[str, Any]:
    sheet = front(duels)
    return duels.ask({"do": "vote", "sheet": sheet.id, "verdict": verdict})


# -- blind ------------------------------------------------------------------------------------------------------


def test_what_is_told_before_the_vote_does_not_depend_on_who_stands_where(duels, desk):
    begin(duels)
    sheet = front(duels)

    def told_now() -> str:
        # How many more pairs are drawn by now says nothing of this one.
        return json.dumps({key: told for key, told in duels.view().items() if key not in ("ahead", "stamp")})

    told, before = duels.view(), told_now()
    # The same answers at the same places, the other way round of adapters; everything else is what it was.
    sheet.order, sheet.texts = sheet.order[::-1], sheet.texts[::-1]
    sheet.origin = sheet.recipe.origin(sheet.origin.sampling["seed"])
    assert told_now() == before
    assert json.dumps(duels.ask({"do": "open"})["sheet"]) == json.dumps(told["sheet"])
    # Nor does any name, hash or seed stand beside the prompt.
    text = json.dumps({**told["sheet"], "prompt": []})  # in which somebody may well ask for an order
    assert not any(word in text for word in ("ppo-1", "sft-1", "hash-of", "seed", "adapter", "order"))
    assert set(told["sheet"]) == {"id", "prompt", "answers", "html", "whole", "equal", "problem"}


def test_no_answer_is_told_before_both_are_whole(duels, desk):
    second, go = threading.Event(), threading.Event()

    def answer(call: int, k: int) -> str:
        if call % 2:
            second.set()
            go.wait(10)
        return f"answer {call}"

    desk.engine.answer = answer
    begin(duels)
    duels.ask({"do": "look"})
    assert second.wait(10)
    wait_for(lambda: any(duels.tray.front.texts))  # the first is there
    told = duels.ask({"do": "look"})["sheet"]
    assert (told["answers"], told["whole"]) == (["", ""], False)
    go.set()
    assert all(front(duels).placed)


def test_sides_are_dealt_evenly(duels, desk):
    begin(duels)
    left = Counter()
    for _ in range(60):
        sheet = front(duels)
        left[sheet.sources[0]] += 1
        duels.ask({"do": "vote", "sheet": sheet.id, "verdict": "tie"})
    assert 15 <= left["ppo-1"] <= 45  # 99.99 % of fair deals
    assert sum(left.values()) == 60


def test_names_are_told_in_the_reply_to_the_vote_which_is_on_disk_by_then(duels, desk, tmp_path):
    begin(duels)
    sheet = front(duels)
    seen: list[int] = []
    leave = duels.tray.leave

    def on_disk() -> None:
        with Store(desk.workspace.db) as other:
            seen.append(len(other.duel_votes()))
        leave()

    duels.tray.leave = on_disk
    reply = duels.ask({"do": "vote", "sheet": sheet.id, "verdict": "a2"})
    assert seen == [1]
    assert reply["last"]["sources"] == sheet.sources
    assert set(sheet.sources) == {"ppo-1", "sft-1"}
    said = desk.store.comparisons()[0].value
    assert said.origin.source == "duel"
    assert said.origin.adapters == ("ppo-1", "sft-1")
    assert said.origin.adapter_hashes == ("hash-of-ppo-1", "hash-of-sft-1")
    assert (said.left, said.strength) == ("ab"[sheet.order[0]], 2)
    assert said.outcome.value == said.left
    assert said.origin.seconds is not None
    assert "ppo-1" in reply["standing"]
    # Pressed twice, it is one vote.
    again = duels.ask({"do": "vote", "sheet": sheet.id, "verdict": "b2"})
    assert again["wrong"]
    assert len(desk.store.duel_votes()) == 1


# -- what the votes come to -------------------------------------------------------------------------------------


def prefer(duels: DuelDesk, name: str) -> dict[str, Any]:
    """Vote for one adapter, wherever it stands, as somebody does who knows it by its style."""
    return vote(duels, "a1" if front(duels).sources[0] == name else "b1")


def test_a_duel_goes_to_its_verdict_and_onto_the_card(duels, desk):
    begin(duels)
    for _ in range(14):
        reply = prefer(duels, "ppo-1")
    assert "ppo-1 is preferred to sft-1: it wins 100% of 14 votes" in reply["standing"]
    assert "Decided: ppo-1 is better. You can stop" in reply["standing"]
    # The end is announced and leads on. The newest policy is another one: the winner may take its place.
    assert "<p class='title'>ppo-1 is better</p><p>You preferred it in 14 of 14 blind votes." in reply["standing"]
    assert "data-adopt='ppo-1'>Let ppo-1 answer from now on" in reply["standing"]
    reply = duels.ask({"do": "adopt", "name": "ppo-1"})
    assert load_preferences(desk.store).first == "ppo-1"
    assert "data-go='Rate'>Next round: rate its answers" in reply["standing"]
    assert duels.ask({"do": "adopt", "name": "ppo-2"})["said"] == "ppo-2 takes no part in this duel"
    assert "data-go='Models' data-adapter='ppo-1'>Export" in reply["standing"]
    assert "By people" in reply["board"]
    ppo, sft = (read_saved(desk.workspace.adapters_dir / name).card for name in ("ppo-1", "sft-1"))
    assert (ppo["duels"][0]["win_rate"], sft["duels"][0]["win_rate"]) == (1.0, 0.0)
    assert (ppo["duels"][0]["settled"], sft["duels"][0]["settled"]) == ("first", "second")
    assert ppo["hashes"] == {"adapter": "hash-of-ppo-1"}


def test_where_training_did_not_help_more_votes_are_what_is_next(duels, desk):
    begin(duels, "base", "sft-1")
    for _ in range(14):
        reply = prefer(duels, "base")
    assert "<p class='title'>base is better</p><p>You preferred it in 14 of 14 blind votes." in reply["standing"]
    assert "data-go='Rate' class='primary'>Rate more answers" in reply["standing"]
    assert "data-adopt" not in reply["standing"]


def test_the_bar_is_split_where_the_votes_are_and_a_ring_shows_how_far_it_is(duels, desk):
    begin(duels)
    for name in ("ppo-1", "ppo-1", "ppo-1", "sft-1"):
        reply = prefer(duels, name)
    standing = reply["standing"]
    assert "<b>75%</b> ppo-1</span><span>sft-1 <b>25%</b></span>" in standing
    assert "<i class='won' style='width:75.00%'>" in standing
    result = duels_of(desk)
    assert f"left:{result.always[0]:.2%};right:{1 - result.always[1]:.2%}" in standing
    assert f"stroke-dasharray='{100 * 4 / (4 + result.more):.1f} 100'" in standing
    assert "class='reveal'" not in standing
    assert "class='next'" not in standing


def duels_of(desk) -> Result:
    return result_of(desk.store.duel_votes(), "hash-of-ppo-1", "hash-of-sft-1")


def test_taking_a_vote_back_counts_it_nowhere_and_does_not_show_its_pair_again(duels, desk):
    begin(duels)
    prompt = front(duels).prompt
    prefer(duels, "ppo-1")
    reply = duels.ask({"do": "undo"})
    assert "Its pair does not come again" in reply["said"]
    assert reply["last"] == {}
    assert "1 vote taken back" not in reply["standing"] or "No votes yet" in reply["standing"]
    assert not desk.store.duel_votes()
    assert all(sheet.prompt != prompt for sheet in duels.tray.sheets)
    prefer(duels, "ppo-1")
    assert "1 vote taken back, not counted" in duels.figures()["standing"]
    assert duels.ask({"do": "undo"})["undoable"] is False
    assert duels.ask({"do": "undo"})["said"] == "there is no vote to take back"


def test_a_restart_in_mid_duel_loses_nothing(duels, desk):
    begin(duels, teaches=False)
    for _ in range(3):
        prefer(duels, "sft-1")
    before = duels.figures()
    asked = {prompt_key(vote.prompt) for vote in desk.store.duel_votes()}
    duels.tray._watched = 0.0
    other = DuelDesk(desk)
    opened = other.ask({"do": "open"})
    assert {name: opened[name] for name in before} == before
    assert (opened["names"], opened["teaches"]) == (["ppo-1", "sft-1"], False)
    assert prompt_key(front(other).prompt) not in asked  # it goes on where it was
    assert other.duel == duels.duel
    other.tray._watched = 0.0


def test_of_three_every_pair_has_its_turn_and_all_settle_at_once_or_none(duels, desk):
    begin(duels, "base", "sft-1", "ppo-2")
    met: Counter[frozenset[str]] = Counter()
    for _ in range(12):
        met[frozenset(front(duels).sources)] += 1
        reply = vote(duels, "tie")
    assert set(met.values()) == {4}
    assert len(met) == 3
    assert reply["standing"].count("wins 50% of 4 votes") == 3
    assert reply["board"].count("<tr><th scope='row'>") == 3
    card = read_saved(desk.workspace.adapters_dir / "sft-1").card
    assert [one["against"]["name"] for one in card["duels"]] == ["base", "ppo-2"]


def test_equal_answers_are_shown_as_they_came_for_they_are_part_of_the_truth(duels, desk):
    desk.engine.answer = lambda call, k: "the same"
    begin(duels)
    told = duels.view() if front(duels) else {}
    assert told["sheet"]["equal"]
    assert duels.tray.front.tries == 1


# -- prompts ----------------------------------------------------------------------------------------------------


def test_a_typed_prompt_comes_next_unless_somebody_learned_from_it(duels, desk):
    begin(duels)
    front(duels)
    reply = duels.ask({"do": "type", "text": f"  {EVIL} one of mine?  "})
    assert reply["said"].startswith("In line")
    shown = [(front(duels).prompt, vote(duels, "tie"))[0] for _ in range(6)]
    assert user(f"{EVIL} one of mine?") in shown
    assert not desk.store.prompts()  # nothing practises on it
    again = duels.ask({"do": "type", "text": f"{EVIL} one of mine?"})
    assert "in the duel already" in again["said"]
    assert "nothing was typed" in duels.ask({"do": "type", "text": "  "})["said"]
    card = desk.workspace.adapters_dir / "ppo-1" / CARD
    made = json.loads(card.read_text())
    card.write_text(json.dumps({**made, "settings": {"heldout_share": 0.0}}))  # now it may have learned from anything
    assert "may have learned from this prompt" in duels.ask({"do": "type", "text": "something else?"})["said"]


def test_what_cannot_be_is_said_in_one_line(duels, desk):
    for names, words in (
        (("ppo-1",), "takes 2 to 6 adapters"),
        (("ppo-1", "ghost"), "no adapter ghost"),
        (("ppo-1", "reward-1"), "gives no answers"),
    ):
        reply = begin(duels, *names)
        assert words in reply["said"]
        assert reply["wrong"]
        assert "\n" not in reply["said"]
        assert not reply["duel"]
    for payload in (
        {"do": "vote", "sheet": "x", "verdict": "a1"},
        {"do": "undo"},
        {"do": "type", "text": "x"},
        {"do": "?"},
    ):
        assert duels.ask(payload)["wrong"]
    assert not desk.store.duels()


def test_an_adapter_that_goes_in_mid_duel_is_missed_in_words(duels, desk):
    begin(duels)
    prefer(duels, "ppo-1")
    (desk.workspace.adapters_dir / "ppo-1").rename(desk.workspace.path / "gone")
    duels.tray.clear()
    told = wait_for(lambda: (v := duels.ask({"do": "look"})).get("wait") and v)
    assert "adapter ppo-1 is gone, so that this duel cannot go on" in told["wait"]
    assert "ppo-1 (deleted)" in duels.figures()["standing"]
    duels.ask({"do": "leave"})
    assert duels.ask({"do": "open"})["duel"] == 0


def test_a_card_that_cannot_be_written_costs_no_vote(duels, desk, monkeypatch):
    begin(duels)
    sheet = front(duels)
    monkeypatch.setattr("lorarlhf.library.os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    reply = duels.ask({"do": "vote", "sheet": sheet.id, "verdict": "tie"})
    assert "Saved: Tie. But adapter" in reply["said"]
    assert "No space left" in reply["said"]
    assert desk.store.duel_votes()[0].outcome is Outcome.TIE


def test_names_are_text_on_the_page(duels, desk):
    begin(duels)
    prefer(duels, "ppo-1")
    desk.store.add_judged(duels.duel.id, EVIL, "h", [desk.store.comparisons()[0].value])
    figures = json.dumps(duels.figures())
    assert EVIL not in figures
    assert "&lt;img" in figures


# -- checkpoints ------------------------------------------------------------------------------------------------


def test_a_checkpoint_takes_part_unnamed_and_can_be_kept_once_it_is_ahead(duels, desk):
    put_checkpoint(desk.workspace, 20)
    put_checkpoint(desk.workspace, 40)
    told = duels.ask({"do": "open"})
    assert told["choices"]["checkpoints"] == ["ppo-2@40", "ppo-2@20"]
    told = begin(duels, "ppo-2@40", "sft-1")
    assert told["names"] == ["ppo-2@40", "sft-1"]
    front(duels)
    assert {call["adapter"] for call in desk.engine.asked} == {"ppo-2@40", "sft-1"}
    assert "ppo-2" not in json.dumps(duels.view()["sheet"])
    assert "data-keep" not in duels.figures()["standing"]
    told = prefer(duels, "ppo-2@40")
    assert set(told["last"]["sources"]) == {"ppo-2@40", "sft-1"}
    assert "<button type='button' data-keep='ppo-2@40'>" in told["standing"]
    told = duels.ask({"do": "keep", "name": "ppo-2@40"})
    assert (told["said"], told["wrong"]) == (
        "Kept as adapter ppo-3; where you name nothing, it is the newest now",
        False,
    )
    assert told["names"] == ["ppo-3", "sft-1"]
    assert "data-keep" not in told["standing"]
    assert "ppo-3 wins 100%" in told["standing"]
    card = read_saved(desk.workspace.adapters_dir / "ppo-3").card
    assert [(one["against"]["name"], one["votes"]) for one in card["duels"]] == [("sft-1", 1)]


def test_a_checkpoint_that_rotates_away_in_mid_duel_is_missed_in_words_and_its_votes_stay(duels, desk):
    folder = put_checkpoint(desk.workspace, 40)
    begin(duels, "ppo-2@40", "sft-1")
    shelf = prefer(duels, "sft-1")["shelf"]
    shutil.rmtree(folder)
    duels.tray.clear()
    told = wait_for(lambda: (v := duels.ask({"do": "look"})).get("wait") and v)
    assert told["wait"].startswith("checkpoint ppo-2@40 is gone, as a run keeps its last 2 alone")
    assert told["shelf"] != shelf
    assert "ppo-2@40 (deleted)" in duels.figures()["standing"]
    assert len(desk.store.duel_votes()) == 1
    assert duels.ask({"do": "keep", "name": "ppo-2@40"})["wrong"]
