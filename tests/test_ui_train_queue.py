"""The queue: stages that start when the one before is done, whoever restarts what meanwhile; and what stops it."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lorarlhf.errors import LoraRlhfError, TrainingError
from lorarlhf.library import check_new_name, free_name
from lorarlhf.settings import STAGES, LoadSettings
from lorarlhf.store import QUEUE
from lorarlhf.types import Comparison, Demonstration, Outcome, user
from lorarlhf.ui.desk import Desk, Notice
from lorarlhf.ui.train.training_view import TrainingView
from lorarlhf.workspace import Workspace
from tests import tiny

PATIENCE = 180.0
SMALL = {"rank": 4, "micro_batch_tokens": 256, "batch_size": 4, "eval_every": 500}
QUICK = {"sft": {**SMALL, "epochs": 0.1}, "reward": {**SMALL, "epochs": 0.1}}
QUICK["ppo"] = {**SMALL, "steps": 1, "value_warmup_steps": 0, "max_new_tokens": 4, "eval_prompts": 2}


def wait(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    place = Workspace(tmp_path / "work").open()
    with place.store() as store:
        store.add_demonstrations(Demonstration(user(f"question {i}?"), f"answer {i}") for i in range(16))
        store.add_comparisons(Comparison(user(f"question {i}?"), "yes", "no", Outcome.A) for i in range(16))
    return place


@pytest.fixture(scope="module")
def load(tmp_path_factory) -> LoadSettings:
    folder = tiny.save(tmp_path_factory.mktemp("queue") / "base", arch="qwen3")
    return LoadSettings(base=str(folder), compute="fp32", device="cpu")


@pytest.fixture
def resting(workspace):
    """A view whose engine was never started: what is asked of it fails, as it would of one that broke."""
    desk = Desk(workspace, LoadSettings())
    desk.memory = {"base": {"fingerprint": "f"}}
    view = TrainingView(desk)
    view.started = []
    desk.train = lambda stage, settings, name: view.started.append(stage) or desk.engine.train(stage, settings, name)
    yield view
    desk.store.close()


def add(view: TrainingView, *stages: str) -> None:
    for stage in stages:
        view.queue.add(stage, STAGES[stage].parse(QUICK[stage]), f"{stage}-night", unseen=stage == "ppo")


def ended(view: TrainingView, status: str, error: str = "") -> str:
    """A run that the queue waits for, ended somehow."""
    store = view.desk.store
    run = store.start_run("sft", "first", "starter", {}, {"base": {"fingerprint": "f"}})
    store.finish_run(run, status, {}, error)
    store.set_meta(QUEUE, {**store.get_meta(QUEUE), "after": run})
    return run


@pytest.mark.usefixtures("warm_engines")
def test_stages_follow_one_another_and_the_next_app_goes_on_with_the_queue(workspace, load):
    desk = Desk(workspace, load).open()
    view = TrainingView(desk)
    wait(lambda: desk.status().state == "ready")
    long = desk.stage_settings("sft", {**SMALL, "epochs": 1000, "checkpoint_every": 1})
    desk.train("sft", long, "long")
    wait(lambda: desk.run_job.progress.step >= 2)
    add(view, "sft", "reward", "ppo")
    view.queue.remove(0)
    wait(lambda: view.queue.line().after == "sft-1")
    assert [one.name for one in view.queue.line().waiting] == ["reward-night", "ppo-night"]
    desk.close()

    desk = Desk(workspace, load).open()
    view = TrainingView(desk)
    wait(lambda: desk.run_job and desk.run_job.progress.step)  # the long run goes on; the queue waits for it
    assert [one.stage for one in view.queue.line().waiting] == ["reward", "ppo"]
    desk.stop_run()
    wait(lambda: view.queue.line().stopped)
    assert view.queue.line().stopped == "long (run sft-1) was stopped"
    view.queue.go_on()
    wait(lambda: not view.queue.line().waiting and desk.run_job.done)
    assert [(run.adapter, run.status) for run in desk.store.runs()] == [
        ("long", "paused"),
        ("reward-night", "done"),
        ("ppo-night", "done"),
    ]
    assert desk.store.runs()[2].parents["adapters"]["reward"] == "reward-night"
    assert [notice.text for notice in desk.notices if notice.good] == ["ppo-night is done"]  # not one for each
    desk.close()


@pytest.mark.parametrize(
    ("status", "error", "words"),
    [
        ("failed", "out of memory", "first (run sft-1) failed: out of memory"),
        ("paused", "", "first (run sft-1) was stopped"),
    ],
)
def test_a_run_that_did_not_end_well_stops_the_queue_in_words(resting, status, error, words):
    add(resting, "sft")
    ended(resting, status, error)
    resting.queue.advance()
    assert resting.queue.line().stopped == words
    resting.queue.advance()
    assert (len(resting.queue.line().waiting), resting.started) == (1, [])
    resting.queue.go_on()  # the person knows better
    resting.queue.advance()
    assert resting.started == ["sft"]
    resting.queue.advance()
    assert "engine was not started" in resting.queue.line().stopped


def test_a_run_that_broke_off_is_gone_on_with_once(resting):
    add(resting, "sft")
    run = ended(resting, "interrupted")
    (resting.desk.workspace.runs_dir / run / "step-000004").mkdir(parents=True)
    asked = []
    resting.desk.resume = asked.append
    resting.queue.advance()
    assert (asked, resting.queue.line().stopped) == ([run], "")
    resting.queue.advance()  # it broke off at the very same step
    assert asked == [run]
    assert resting.queue.line().stopped == "first (run sft-1) broke off"


@pytest.mark.parametrize("became", ["", "done", "paused", "interrupted"])
def test_a_stage_that_was_starting_when_the_app_died_is_trained_once(resting, became):
    add(resting, "sft", "reward")
    ended(resting, "done")
    resting.queue.advance()
    assert resting.started == ["sft"]
    resting.queue.remove(0)  # too late: it starts already
    assert [one.stage for one in resting.queue.line().waiting] == ["sft", "reward"]
    store = resting.desk.store
    assert set(store.promised()) == {"sft-night", "reward-night"}
    assert set(store.promised(to_start=True)) == {"reward-night"}  # the other name is the engine's to give now
    assert {"sft-night", "reward-night"} <= store.run_names()  # which are never made up
    settings = store.get_meta(QUEUE)["waiting"][0]["settings"]
    for name in ("from-the-terminal", *(["sft-night"] if became else [])):
        started = store.start_run("sft", name, "starter", settings, {"base": {"fingerprint": "f"}})
        store.set_status(started, "running")
    resumed = []
    resting.desk.resume = resumed.append

    next_app = TrainingView(resting.desk).queue
    store.finish_run("sft-2", "done", {})
    if became:
        next_app.advance()  # the engine of the app that died is still at it
        assert next_app.line().start_after == 1
        store.finish_run(started, became, {})
    next_app.advance()
    line = next_app.line()
    assert [one.stage for one in line.waiting] == (["reward"] if became else ["sft", "reward"])
    assert (line.after, line.start_after) == ("sft-3" if became else "sft-1", None)
    assert resumed == (["sft-3"] if became == "paused" else [])  # nobody had stopped it
    if became in ("", "done"):
        next_app.advance()
        assert resting.started == ["sft", "reward" if became else "sft"]


def test_a_name_made_up_for_a_queued_stage_is_none_that_waits_there(resting):
    resting.queue.add("sft", STAGES["sft"].parse(QUICK["sft"]))
    resting.queue.add("sft", STAGES["sft"].parse(QUICK["sft"]), "sft-1")
    store = resting.desk.store
    assert free_name(resting.desk.workspace.adapters_dir, "sft", store.run_names()) == "sft-2"


def test_what_cannot_start_stops_the_queue_and_what_cannot_wait_is_refused(resting):
    add(resting, "ppo")
    with pytest.raises(TrainingError, match="ppo-night is in the queue already"):
        add(resting, "ppo")
    with pytest.raises(LoraRlhfError, match="letters, digits"):
        resting.queue.add("sft", STAGES["sft"](), "up.2")
    # Nobody else takes its name meanwhile.
    promised = resting.desk.store.promised()
    with pytest.raises(LoraRlhfError, match="is what the ppo run, which waits in the queue, will make; choose another"):
        check_new_name(resting.desk.workspace.adapters_dir, "ppo-night", promised)
    resting.queue.advance()
    assert resting.queue.line().stopped.startswith("No reward model on this base yet")
    resting.queue.remove(7)
    resting.queue.remove(0)
    assert (resting.queue.line().waiting, resting.queue.line().stopped) == ((), "")

    add(resting, "sft")
    resting.desk.memory = {"base": {"fingerprint": "g"}}
    resting.queue.advance()
    assert resting.queue.line().stopped == "SFT → sft-night was meant for the base starter: load it first"
    resting.desk.memory = {}
    with pytest.raises(TrainingError, match="base is not in memory"):
        add(resting, "reward")


def test_a_queue_waits_while_anything_is_at_work_and_stops_when_the_engine_is_given_up(resting):
    add(resting, "sft")
    other = resting.desk.store.start_run("sft", "elsewhere", "starter", {}, {})
    resting.queue.advance()
    assert (resting.started, resting.queue.line().stopped) == ([], "")
    resting.desk.store.finish_run(other, "done", {})
    resting.desk._deaths = [0.0] * 3
    resting.queue.advance()
    assert resting.queue.line().stopped == "The engine died again and again"
    assert resting.started == []


def test_good_news_takes_the_place_of_good_news_and_bad_news_stays(resting):
    desk = resting.desk
    for notice in (Notice("a is done", good=True), Notice("engine died", "sft-1"), Notice("b is done", good=True)):
        desk.tell(notice)
    assert [notice.text for notice in desk.notices] == ["engine died", "b is done"]
