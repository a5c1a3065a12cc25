"""Compare, without a browser: answers come in order, Stop stops them all, and a model's text stays text."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lorarlhf.engine.client import Job
from lorarlhf.engine.requests import EngineDied, JobCancelled
from lorarlhf.errors import AdapterError
from lorarlhf.settings import SamplingSettings
from lorarlhf.types import Message, user
from lorarlhf.ui.compare.comparing import Answer, AtWork, choices, reply, scorer, side_by_side, usual
from lorarlhf.ui.compare.comparing_html import answers_html, chat_html

EVIL = "<script>alert(1)</script> ![x](http://evil/x.png) <img src=http://evil/y.png onerror=alert(2)>"


class Engine:
    """An engine whose jobs end as they are told to; it stands in for client and process."""

    def __init__(self, endings: dict) -> None:
        self.endings, self.jobs, self.asked = endings, {}, []

    def _job(self, kind: str, ending: object, rows: int = 0) -> Job:
        job = Job(self, len(self.jobs) + 1, kind, rows)
        self.jobs[job.number] = job
        if isinstance(ending, str):
            job._update(started=True, rows=[(0, ending[:3])])
            job._end([[{"text": ending, "tokens": [], "ended": True}]])
        elif ending is not None:
            job._end(ending)
        return job

    def generate(self, prompts, n, sampling, adapter=""):
        self.asked.append((prompts, n, sampling, adapter))
        return self._job("generate", self.endings[adapter], n)

    def score(self, adapter, answers):
        self.asked.append((adapter, answers))
        return self._job("score", self.endings[adapter])

    def _ask_to_stop(self, number: int) -> None:
        if not self.jobs[number].done:
            self.jobs[number]._end(JobCancelled("stopped before its end"))


def compared(endings: dict, adapters: list[str], judge: str = "", at_work: AtWork | None = None):
    engine = Engine(endings)
    desk = SimpleNamespace(engine=engine)
    how = SamplingSettings(seed=7)
    return engine, side_by_side(desk, at_work or AtWork(), "page", user("Hi?"), adapters, how, judge)


def test_every_adapter_answers_the_same_prompt_with_the_same_seed_and_is_scored():
    engine, shown = compared({"base": "one", "sft": "two", "r": [0.5, -1.0]}, ["base", "sft"], judge="r")
    *_, last = shown
    assert last == [Answer("base", "one", "done", score=0.5), Answer("sft", "two", "done", score=-1.0)]
    first, second, scored = engine.asked
    assert first[:3] == second[:3] == ([user("Hi?")], 1, SamplingSettings(seed=7))
    assert scored == ("r", [(user("Hi?"), "one"), (user("Hi?"), "two")])


def test_one_that_fails_says_why_and_the_others_answer():
    _, shown = compared({"gone": AdapterError("no adapter gone"), "sft": "two", "r": [1.0]}, ["gone", "sft"], "r")
    *_, last = shown
    assert last == [Answer("gone", "", "failed", "no adapter gone"), Answer("sft", "two", "done", score=1.0)]


def test_an_engine_that_dies_in_the_middle_asks_to_ask_again():
    _, shown = compared({"sft": EngineDied("the engine was killed; restart it")}, ["sft"])
    *_, last = shown
    assert last[0].state == "failed"
    assert last[0].problem.endswith("Ask again when it is back.")


def test_stop_ends_all_answers_of_its_page_and_of_no_other():
    at_work = AtWork()
    engine, shown = compared({"base": None, "sft": None}, ["base", "sft"], at_work=at_work)
    next(shown)
    next(shown)
    at_work.stop("another page")
    assert not engine.jobs[1].done
    at_work.stop("page")
    *_, last = shown
    assert [answer.state for answer in last] == ["stopped", "stopped"]
    assert not at_work._jobs


def test_a_page_that_goes_away_stops_what_it_asked_for():
    engine, shown = compared({"base": None, "sft": None}, ["base", "sft"])
    next(shown)
    next(shown)
    shown.close()
    assert all(job.done for job in engine.jobs.values())


def test_a_chat_hands_over_the_whole_conversation():
    engine = Engine({"sft": "fine"})
    turns = [*user("Hi"), Message(role="assistant", content="Hello"), *user("How are you?")]
    *_, last = reply(SimpleNamespace(engine=engine), AtWork(), "page", turns, "sft", SamplingSettings())
    assert (last.text, last.state) == ("fine", "done")
    assert engine.asked[0][0] == [tuple(turns)]


def test_reward_models_judge_and_do_not_answer():
    made = [("sft-1", "sft"), ("reward-1", "reward"), ("sft-2", "sft"), ("ppo-1", "ppo"), ("reward-2", "reward")]
    saved = [SimpleNamespace(name=name, stage=stage, has_head=stage == "reward") for name, stage in made]
    newest = {adapter.stage: adapter for adapter in saved}
    desk = SimpleNamespace(adapters=lambda: saved, newest=newest.get)
    assert [name for _, name in choices(desk)] == ["base", "ppo-1", "sft-2", "sft-1"]
    assert usual(desk) == ["base", "sft-2", "ppo-1"]
    assert scorer(desk) == "reward-2"
    bare = SimpleNamespace(newest=lambda stage: None)
    assert (usual(bare), scorer(bare)) == (["base"], "")


@pytest.mark.parametrize("state", ["writing", "done", "failed"])
def test_answers_are_text_and_nothing_else(state):
    answer = Answer(EVIL, EVIL, state, EVIL)
    turns = [Message(role="user", content=EVIL), Message(role="assistant", content=EVIL)]
    for written in (answers_html([answer]), chat_html(turns, answer)):
        assert "<script" not in written
        assert "<img" not in written
        assert "&lt;script&gt;" in written
