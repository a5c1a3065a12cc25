"""Runs in the terminal: told in words, followed while another process works on them, and left without a trace."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from lorarlhf.store import Store
from lorarlhf.watching import describe, watch
from lorarlhf.workspace import Workspace


@pytest.fixture
def place(tmp_path) -> Workspace:
    return Workspace(tmp_path / "work").open()


def ppo(store: Store) -> str:
    """A run of this process, three steps far, that answers too long."""
    run = store.start_run("ppo", "kind", "starter", {"kl_budget": 20.0, "kl_coef": 0.05}, {})
    store.log_metrics(run, 0, {"run/steps": 8.0, "eval/scores": 0.5, "eval/kl": 0.0})
    for step in range(1, 7):
        length = {"response/length": 10.0 * step, "objective/scores": step / 10, "objective/kl": (step - 1) / 2}
        store.log_metrics(run, step, length)
    return run


def command(place: Workspace, *words: str) -> list[str]:
    return [sys.executable, "-m", "lorarlhf.cli", "runs", *words, "--workspace", str(place.path)]


def test_why_a_run_stopped_is_told(place):
    with place.store() as store:
        run = ppo(store)
        store.log_event(run, 0, "a checkpoint takes 4.7 MB of disk; the last 2 are kept")
        store.log_event(run, 6, "stopped at step 6: KL of 31.0 nats an answer passed kl_budget 20")
        assert "  stopped at step 6: KL of 31.0 nats an answer passed kl_budget 20" in describe(store, run).splitlines()
        assert store.said(run) == ["stopped at step 6: KL of 31.0 nats an answer passed kl_budget 20"]


def test_a_run_is_told_in_words_with_what_its_numbers_say(place):
    with place.store() as store:
        run = ppo(store)
        store.finish_run(run, "done", {"eval/scores": 0.5, "eval/kl": 3.0})
        lines = describe(store, run).splitlines()
    assert lines == [
        "kind (run ppo-1): ppo on starter, done, step 6 of 8",
        "  score 0.6 at step 6",
        "  KL 2.5 at step 6",
        "  length 60 at step 6",
        "  Reward +0.50 on test prompts, still close to the base model (KL 3.0)",
        "  ! Answers have 60 tokens at step 6, 200% more than at first: most of the gain may be length. "
        "Read the samples: is longer better? If not, rate more short answers as better.",
    ]
    done = subprocess.run(command(place, "kind"), capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == lines
    done = subprocess.run(command(place, "kind", "--json"), capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)["id"] == run


def test_what_is_at_work_is_followed_to_its_end(place, capsys, monkeypatch):
    monkeypatch.setattr("lorarlhf.watching.BETWEEN_SECONDS", 0.3)
    monkeypatch.setattr("lorarlhf.watching.LOOK_SECONDS", 0.05)
    with place.store() as store:
        watch(store)
        assert capsys.readouterr().err == "no run is at work\n"
        run = ppo(store)

        def work() -> None:
            time.sleep(0.3)
            store.log_metrics(run, 7, {"objective/scores": 0.7, "eval/scores": 0.75, "eval/kl": 3.5})
            time.sleep(0.3)
            store.finish_run(run, "failed", {}, "out of memory")

        worker = threading.Thread(target=work)
        worker.start()
        watch(store)
        worker.join()
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Ctrl-C leaves; the runs go on"
    assert any(line.startswith("kind (run ppo-1): step 7 of 8, score 0.7,") for line in said)
    assert said[-2] == "kind (run ppo-1): failed. out of memory"
    assert said[-1].startswith("  ! Answers have 60 tokens")


def test_a_run_whose_process_is_gone_is_not_waited_for(place, capsys):
    with place.store() as store:
        store.release(ppo(store))
        watch(store)
    assert capsys.readouterr().err == "no run is at work\n"


def test_who_leaves_touches_nothing(place):
    with place.store() as store:
        run = ppo(store)
        before = store.run(run)
        # A shell that runs the tests in the background lets its children ignore Ctrl-C.
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(command(place, "--watch"), stderr=subprocess.PIPE, text=True, preexec_fn=heed)
        assert process.stderr is not None
        assert process.stderr.readline() == "Ctrl-C leaves; the runs go on\n"
        assert process.stderr.readline() == "kind (run ppo-1): step 6 of 8, score 0.6, KL 2.5, length 60\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "left; what is at work goes on" in process.stderr.read()
        assert store.run(run) == before
