"""Pairs before they are needed, and votes before a pair is whole: what is drawn, when, and what counts."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lorarlhf.engine.client import Job
from lorarlhf.engine.requests import JobCancelled
from lorarlhf.settings import SamplingSettings
from lorarlhf.ui.rate.pairs import AHEAD, alike
from lorarlhf.ui.rate.rating import CLEAR_FIRST, RatingDesk
from lorarlhf.ui.rate.sheets import READABLE_LETTERS
from tests.rating_desk import FakeDesk, fake_desk, vote, wait_for, whole


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[FakeDesk]:
    with fake_desk(tmp_path / "work") as made:
        yield made


@pytest.fixture
def rating(desk: FakeDesk) -> RatingDesk:
    return RatingDesk(desk, random.Random(0))  # type: ignore[arg-type]


def test_whoever_begins_gets_single_questions_and_answers_that_differ(desk, rating):
    words = ["yes it is here now", "yes it is here today", "we close at six", "no", "yes it is here now"]
    desk.engine.answer = lambda call, k: words[2 * (call > 0) + k]
    assert alike(words[:2])
    assert not alike(words[2:4])
    sheet = whole(rating)["sheet"]
    assert sorted(sheet["answers"]) == ["no", "we close at six"]  # those of the first try were much alike
    for _ in range(CLEAR_FIRST):
        assert len(whole(rating)["sheet"]["prompt"]) == 1
        vote(rating)
    # Later, pairs may be as alike as they are, and conversations come, too.
    assert not rating._is_new()
    assert any(len(prompt) > 1 for prompt in (rating._source.take(()) for _ in range(60)))


def test_a_pair_that_is_clear_already_is_judged_before_its_end(desk, rating, monkeypatch):
    clear, stopped = "A" * READABLE_LETTERS, []
    jobs: list[Any] = []

    def generate(prompts: list[Any], n: int, sampling: SamplingSettings, adapter: str = "") -> Job:
        client: Any = SimpleNamespace(_ask_to_stop=stopped.append)
        jobs.append(Job(client, len(jobs), "generate", n))
        return jobs[-1]

    monkeypatch.setattr(desk.engine, "generate", generate)
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr("lorarlhf.ui.rate.pairs.time", SimpleNamespace(monotonic=lambda: next(clock)))
    wait_for(lambda: jobs or (rating.ask({"do": "look"}) and None))
    write = lambda step, texts: jobs[0]._update(rows=list(enumerate(texts)), step=step, total=96)  # noqa: E731

    def looked(**wanted: Any) -> Any:
        def look() -> Any:
            sheet = rating.ask({"do": "look"})["sheet"]
            return sheet if sheet and sheet["pace"].get("tokens") == wanted["tokens"] else None

        return wait_for(look)

    write(1, ["A", "B"])
    sheet = looked(tokens=1)
    refused = rating.ask({"do": "vote", "sheet": sheet["id"], "verdict": "a1"})
    assert refused["wrong"]
    write(30, [clear, clear + "B"])
    sheet = looked(tokens=30)
    assert (sheet["readable"], sheet["whole"]) == (True, False)
    assert sheet["pace"]["left"] == pytest.approx(66 / sheet["pace"]["rate"], rel=0.1)
    reply = rating.ask({"do": "vote", "sheet": sheet["id"], "verdict": "a1"})
    assert reply["said"] == "Saved: A better"
    said = desk.store.comparisons()[0].value
    assert {said.a, said.b} == {clear, clear + "B"}
    assert said.origin.sampling["stopped"] is True
    assert stopped == [0]
    write(60, [clear + " more", clear + " more"])  # what the engine still says changes nothing
    jobs[0]._end(JobCancelled("stopped"))
    wait_for(lambda: len(jobs) > 1)
    assert desk.store.comparisons()[0].value == said


def test_many_pairs_are_prepared_while_nobody_looks(desk, rating, monkeypatch):
    told: list[Any] = []
    monkeypatch.setattr(desk, "tell", told.append, raising=False)
    whole(rating, ahead=AHEAD)
    reply = rating.ask({"do": "prepare", "number": 12})
    assert "You can leave" in reply["said"]
    rating.tray._watched = 0.0  # nobody looks any more
    wait_for(lambda: told)
    assert told[0].text == "13 pairs ready to be rated"
    view = rating.ask({"do": "look"})
    assert (view["ahead"], view["preparing"]) == (12, 0)
    asked = len(desk.engine.asked)
    for _ in range(5):
        vote(rating)
    assert len(desk.engine.asked) == asked  # no more than usual are drawn
    rating.ask({"do": "prepare", "number": 100})
    assert rating.ask({"do": "prepare", "number": 0})["said"] == "Stopped"
    assert rating.ask({"do": "look"})["preparing"] == 0
