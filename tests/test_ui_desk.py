"""The desk: what happens to base, engine and run when things go wrong under the app."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from lorarlhf.errors import LoraRlhfError, StoreError
from lorarlhf.settings import LoadSettings
from lorarlhf.types import Demonstration, user
from lorarlhf.ui.desk import MOST_DEATHS, OPEN_RUN, Desk
from lorarlhf.ui.launch import sole_app
from lorarlhf.workspace import Workspace
from tests import tiny

pytestmark = pytest.mark.usefixtures("warm_engines")

PATIENCE = 180.0
SFT = {"rank": 4, "micro_batch_tokens": 256, "batch_size": 4, "epochs": 1000, "checkpoint_every": 1, "eval_every": 500}


def wait(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def load(tmp_path_factory) -> LoadSettings:
    folder = tiny.save(tmp_path_factory.mktemp("desk") / "base", arch="qwen3")
    return LoadSettings(base=str(folder), compute="fp32", device="cpu")


@pytest.fixture
def workspace(tmp_path) -> Workspace:
    place = Workspace(tmp_path / "work").open()
    with place.store() as store:
        store.add_demonstrations(Demonstration(user(f"question {i}?"), f"answer {i}") for i in range(16))
    return place


@pytest.fixture
def desk(workspace, load):
    desk = Desk(workspace, load).open()
    yield desk
    desk.close()


def training(desk: Desk) -> str:
    """Start a long run and wait until it has a checkpoint."""
    job = desk.train("sft", desk.stage_settings("sft", SFT))
    wait(lambda: job.progress.step >= 2)
    return job.progress.run


def test_an_engine_killed_in_mid_run_is_started_again_and_the_run_can_be_resumed(desk):
    wait(lambda: desk.status().state == "ready")
    run, settings = training(desk), desk.stage_settings("sft", SFT)
    with pytest.raises(LoraRlhfError, match="at work already"):
        desk.train("sft", settings)
    assert not desk.try_resume(run)
    assert "at work already" in desk.notices.pop().text
    wait(lambda: desk.store.get_meta(OPEN_RUN, "") == run)
    first = desk.engine.pid
    os.kill(first, signal.SIGKILL)
    wait(lambda: desk.notices)
    (notice,) = desk.notices
    assert "was killed (SIGKILL)" in notice.text
    assert "started again" in notice.text
    assert notice.run == run
    wait(lambda: desk.status().state == "ready")
    assert desk.engine.pid != first
    assert desk.store.run(run).status == "interrupted"
    step = desk.store.run(run).step
    job = desk.resume(run)
    wait(lambda: job.progress.step > step)
    assert desk.running.id == run
    assert desk.in_use() >= {desk.running.adapter}
    desk.stop_run()
    wait(lambda: job.done)
    assert desk.store.run(run).status == "paused"
    assert desk.store.get_meta(OPEN_RUN) == ""


def test_an_engine_that_dies_again_and_again_is_left_alone_until_asked(desk):
    for deaths in range(1, MOST_DEATHS + 1):
        wait(lambda: desk.engine.pid)
        os.kill(desk.engine.pid, signal.SIGKILL)
        wait(lambda seen=deaths: len(desk.notices) == seen)
    assert "not started any more" in desk.notices[-1].text
    time.sleep(1)
    assert desk.status().state == "down"
    desk.revive()
    wait(lambda: desk.status().state == "ready")


def test_a_base_that_cannot_be_loaded_brings_the_old_one_back(desk, load, tmp_path):
    wait(lambda: desk.status().state == "ready")
    fingerprint = desk.fingerprint
    desk.switch_base(LoadSettings(base=str(tmp_path / "nowhere")))
    assert desk.status().state == "loading"
    wait(lambda: desk.notices)
    assert f"back to {load.base}" in desk.notices[-1].text
    wait(lambda: desk.status().state == "ready")
    assert desk.fingerprint == fingerprint
    assert desk.store.get_meta("load")["base"] == load.base


def test_votes_belong_to_the_base_that_is_loaded_also_when_the_app_comes_again(workspace, load, tmp_path):
    other = load.model_copy(update={"base": str(tiny.save(tmp_path / "other", arch="llama"))})
    desk = Desk(workspace, load).open()
    wait(lambda: desk.status().state == "ready")
    first = desk.fingerprint
    desk.store.add_demonstration(Demonstration(user("about the first?"), "yes"))
    desk.switch_base(other)
    wait(lambda: desk.status().state == "ready" and desk.fingerprint not in ("", first))
    assert len(desk.store.demonstrations()) == 16  # those of a file count everywhere
    desk.store.add_demonstration(Demonstration(user("about the other?"), "no"))
    assert [row.base for row in desk.store.demonstrations()][-1] == desk.fingerprint
    desk.close()
    again = Desk(workspace, load).open()
    try:
        # Known before the base is there: no page shows another base's votes for a moment.
        assert again.store.base == first
        assert [row.value.prompt for row in again.store.demonstrations()][-1] == user("about the first?")
    finally:
        again.close()


def test_loading_another_base_replaces_the_old_one_or_is_cancelled(desk, load):
    wait(lambda: desk.status().state == "ready")
    process = desk.engine.pid
    switching = threading.Thread(target=desk.switch_base, args=[load.model_copy(update={"bits": 16})])
    switching.start()
    seen = set()
    while switching.is_alive():
        seen.add(desk.status().state)
    assert "down" not in seen
    desk.cancel_loading()
    wait(lambda: desk.status().state == "ready")
    assert (desk.memory["base"]["bits"], desk.load_settings) == (4, load)
    desk.switch_base(load.model_copy(update={"bits": 16}))
    wait(lambda: desk.status().state == "ready")
    assert desk.memory["base"]["bits"] == 16
    assert desk.engine.pid != process


def test_closing_the_app_saves_the_run_and_the_next_one_goes_on_with_it(workspace, load):
    first = Desk(workspace, load).open()
    wait(lambda: first.status().state == "ready")
    run = training(first)
    wait(lambda: first.store.get_meta(OPEN_RUN, "") == run)
    first.close()
    second = Desk(workspace, load).open()
    step = second.store.run(run).step
    wait(lambda: second.run_job and second.run_job.progress.step > step)
    assert second.running.id == run
    second.stop_run()
    wait(lambda: second.run_job.done)
    second.close()
    third = Desk(workspace, load).open()
    wait(lambda: third.status().state == "ready")
    assert third.run_job is None
    third.close()


def test_a_run_that_would_go_on_otherwise_says_so_and_goes_on_when_asked_again(desk):
    wait(lambda: desk.status().state == "ready")
    run = training(desk)
    desk.stop_run()
    wait(lambda: desk.run_job.done)
    row = desk.store.run(run)
    versions = {**row.parents["versions"], "peft": "0.0.1"}
    desk.store.revise_run(run, row.settings, {**row.parents, "versions": versions})
    desk.resume(run)
    wait(lambda: desk.notices)
    assert "peft 0.0.1 →" in desk.notices[-1].text
    assert desk.notices[-1].run == run
    assert desk.store.run(run).status == "paused"
    desk.resume(run)
    wait(lambda: desk.running)
    assert not desk.notices
    wait(lambda: desk.run_job.progress.step > row.step)
    desk.stop_run()
    wait(lambda: desk.run_job.done)


def test_a_second_app_on_a_workspace_is_told_where_the_first_one_is(workspace):
    message = r"open in another app at http://127.0.0.1:1 \(pid \d+\)"
    with (
        sole_app(workspace, "http://127.0.0.1:1"),
        pytest.raises(StoreError, match=message),
        sole_app(workspace, "http://127.0.0.1:2"),
    ):
        pass
    with sole_app(workspace, "http://127.0.0.1:2"):
        pass
