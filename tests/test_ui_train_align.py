"""Align for me: from votes to a blind test that lies ready, over a restart; and what stops it on the way."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from lorarlhf.engine.client import Job
from lorarlhf.errors import TrainingError
from lorarlhf.evaluate.health import judge_of
from lorarlhf.settings import STAGES
from lorarlhf.store import Scored
from lorarlhf.types import user
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.duel_desk import IN_FRONT
from lorarlhf.ui.train.align import CHECK, DONE, REWARD, STEPS, TRAIN, Report, report_html
from lorarlhf.ui.train.training_view import TrainingView
from tests.test_ui_judge import EVIL, put
from tests.test_ui_train_queue import QUICK, load, resting, wait, workspace  # noqa: F401 - fixtures


def begin(view: TrainingView) -> None:
    reward, ppo = (STAGES[stage].parse(QUICK[stage]) for stage in ("reward", "ppo"))
    view.align.begin(reward, ppo)


@pytest.mark.usefixtures("warm_engines")
def test_one_press_leads_to_a_blind_test_also_over_a_restart(workspace, load):  # noqa: F811
    desk = Desk(workspace, load).open()
    view = TrainingView(desk)
    wait(lambda: desk.status().state == "ready")
    desk.store.add_prompts([user(f"something new {i}?") for i in range(4)], "imported")
    begin(view)
    wait(lambda: view.queue.line().waiting or desk.running)
    with pytest.raises(TrainingError, match=r"at work|in the queue|to start"):
        begin(view)
    wait(lambda: view.align.report().at != REWARD)
    desk.close()

    desk = Desk(workspace, load).open()
    view = TrainingView(desk)
    wait(lambda: not view.align.report().at_work)
    report = view.align.report()
    assert (report.at, report.stopped) == (DONE, "")
    assert [step for step, _, _ in report.told] == list(STEPS)
    assert (report.reward, report.policy) == ("reward-1", "ppo-1")
    said = {step: words for step, _, words in report.told}
    assert "Too few to say" in said[CHECK] or "nobody knows" in said[CHECK].lower()
    (duel,) = desk.store.duels()
    assert [one.name for one in duel.contestants] == ["ppo-1", ""]
    assert desk.store.get_meta(IN_FRONT) == duel.id
    assert [run.stage for run in desk.store.runs()] == ["reward", "ppo"]
    assert any("The blind test waits for you" in notice.text for notice in desk.notices)
    desk.close()


def finished(view: TrainingView, stage: str, name: str) -> None:
    """Let a stage that waits be done, as the queue would."""
    desk = view.desk
    run = desk.store.start_run(stage, name, "starter", {}, {"base": {"fingerprint": "f"}})
    desk.store.finish_run(run, "done", {})
    put(desk.workspace, name, stage, run=run)
    desk._shelf = (None, [])
    line = view.queue.line()
    view.queue._keep(replace(line, waiting=line.waiting[1:], after=run))


def played(view: TrainingView) -> list[str]:
    """Have the engine measure at once; tells what it was asked."""
    asked: list[str] = []

    def measure(name, *_):
        asked.append(name)
        job = Job(SimpleNamespace(), len(asked), "judge")
        job._end({})
        return job

    engine = view.desk.engine
    view.desk.engine = SimpleNamespace(
        judge=measure, drift=measure, alive=True, jobs=[], load_settings=engine.load_settings, stop=engine.stop
    )
    return asked


def score(view: TrainingView, right: bool) -> None:
    """Have the reward model prefer what was voted for, or the other."""
    store = view.desk.store
    judge = judge_of(view.desk.adapters("reward")[0])
    rows = [row.value for row in store.comparisons()]
    store.add_scores(judge, [(r.prompt, a, Scored(float((a == "yes") == right), 1)) for r in rows for a in (r.a, r.b)])


def test_a_reward_model_that_may_be_guessing_trains_nothing(resting):  # noqa: F811
    asked = played(resting)
    store = resting.desk.store
    for row in list(store.comparisons()):  # enough votes to tell
        store.add_comparisons([replace(row.value, prompt=(*row.value.prompt, {"role": "user", "content": "more"}))])
    begin(resting)
    resting.align.advance()
    assert [one.stage for one in resting.queue.line().waiting] == ["reward"]
    finished(resting, "reward", "reward-1")
    resting.align.advance()
    assert resting.align.report().at == CHECK
    score(resting, right=False)
    resting.align.advance()
    report = resting.align.report()
    assert asked == ["reward-1"]
    assert "may be guessing" in report.stopped
    assert (report.at, resting.queue.line().waiting) == (CHECK, ())
    resting.align.advance()
    assert resting.queue.line().waiting == ()
    assert "Align for me stopped" in resting.desk.notices[-1].text
    page = report_html(report)
    assert page.count("<li class='done'>") == 1
    assert page.count("<li class='failed'>") == 1
    resting.align.forget()
    assert report_html(resting.align.report()) == ""


def test_a_good_one_leads_on_and_stopping_takes_out_what_waits(resting):  # noqa: F811
    played(resting)
    begin(resting)
    resting.align.advance()
    finished(resting, "reward", "reward-1")
    resting.align.advance()
    score(resting, right=True)
    for _ in range(2):
        resting.align.advance()
    assert resting.align.report().at == TRAIN
    (one,) = resting.queue.line().waiting
    assert (one.stage, one.unseen, one.settings["reward"]) == ("ppo", True, "")
    resting.align.stop()
    assert resting.queue.line().waiting == ()
    assert resting.align.report().stopped == "You stopped it"


def test_what_goes_wrong_stops_it_in_words(resting):  # noqa: F811
    played(resting)
    begin(resting)
    resting.align.advance()
    run = resting.desk.store.start_run("reward", "reward-1", "starter", {}, {"base": {"fingerprint": "f"}})
    resting.desk.store.finish_run(run, "failed", {}, "out of memory")
    resting.queue._keep(replace(resting.queue.line(), waiting=(), after=run))
    resting.align.advance()
    assert resting.align.report().stopped == "reward-1 failed: out of memory"
    resting.align.forget()
    begin(resting)
    resting.desk.memory = {"base": {"fingerprint": "g"}}
    resting.align.advance()
    assert resting.align.report().stopped == "Another model was loaded"


def test_the_report_is_text_on_the_page():
    report = Report(at=CHECK, told=((REWARD, "2026-01-01T10:00:00+00:00", EVIL),), stopped=EVIL)
    assert "<img" not in report_html(report)
    assert "&lt;img" in report_html(report)
