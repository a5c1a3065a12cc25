"""Runs: what the engine writes and app and terminal read."""

from __future__ import annotations

import math
import time
from pathlib import Path

import pytest

from lorarlhf.errors import StoreError
from lorarlhf.library import free_name
from lorarlhf.store import Store


@pytest.fixture
def store(tmp_path: Path):
    with Store(tmp_path / "workspace.db") as opened:
        yield opened


def test_a_run_from_start_to_end(store: Store) -> None:
    id = store.start_run("ppo", "kind", "starter", {"steps": 60, "lr": 3e-4}, {"reward": "r@abc"})
    run = store.run(id)
    assert (run.id, run.stage, run.status, run.adapter, run.base) == ("ppo-1", "ppo", "running", "kind", "starter")
    assert (run.settings, run.parents) == ({"steps": 60, "lr": 3e-4}, {"reward": "r@abc"})
    assert (run.step, run.finished, run.result, run.error) == (0, "", {}, "")
    store.log_metrics(id, 7, {"kl": 0.5})
    store.set_status(id, "paused")
    assert (store.run(id).status, store.run(id).step) == ("paused", 7)
    store.finish_run(id, "failed", {"best": 3}, "out of memory")
    run = store.run(id)
    assert (run.status, run.result, run.error) == ("failed", {"best": 3}, "out of memory")
    assert run.created < run.finished <= run.updated
    store.set_status(id, "running")  # resumed
    assert (store.run(id).finished, store.run(id).error) == ("", "")


def test_a_run_is_called_what_its_adapter_is_called_where_that_name_was_made_up(store: Store) -> None:
    asked = ["sft-1", "reward-1", "kind", "ppo-2", "ppo-2", "ppo-9", "mine"]
    ids = [store.start_run(name.split("-")[0] if "-" in name else "ppo", name, "b", {}, {}) for name in asked]
    # `kind` takes ppo-1; the second ppo-2 was already a run, and goes on counting.
    assert ids == ["sft-1", "reward-1", "ppo-1", "ppo-2", "ppo-3", "ppo-9", "ppo-10"]
    assert [run.id for run in store.runs()] == ids
    assert [run.number for run in store.runs()] == [1, 2, 3, 4, 5, 6, 7]
    assert store.run("ppo-2").called == "ppo-2"
    assert store.run("ppo-1").called == "kind (run ppo-1)"


def test_a_made_up_name_is_new_to_runs_and_adapters_alike(store: Store, tmp_path: Path) -> None:
    assert free_name(tmp_path, "reward", store.run_names()) == "reward-1"
    (tmp_path / "reward-4").mkdir()
    assert free_name(tmp_path, "reward", store.run_names()) == "reward-5"
    for _ in range(6):
        store.start_run("sft", "a", "b", {}, {})
    # As older releases called them: the run by its number, the adapter by another.
    with store.transaction() as db:
        db.execute("UPDATE runs SET id = 'reward-6', stage = 'reward', adapter = 'reward-1' WHERE number = 6")
    name = free_name(tmp_path, "reward", store.run_names())
    assert name == "reward-7"
    assert store.start_run("reward", name, "b", {}, {}) == name


def test_metrics_come_back_by_step_and_redone_steps_replace(store: Store) -> None:
    id = store.start_run("sft", "a", "b", {}, {})
    for step in (1, 2, 3):
        store.log_metrics(id, step, {"loss": 1.0 / step, "lr": 0.1})
    store.log_metrics(id, 2, {"loss": 9.0})
    assert [(s, v) for s, name, v in store.metrics(id) if name == "loss"] == [(1, 1.0), (2, 9.0), (3, 1 / 3)]
    assert store.metrics(id, after_step=2) == [(3, "loss", 1 / 3), (3, "lr", 0.1)]
    assert store.run(id).step == 3


def test_metrics_keep_nan_and_infinity(store: Store) -> None:
    id = store.start_run("sft", "a", "b", {}, {})
    store.log_metrics(id, 1, {"x": math.nan, "y": math.inf, "z": -math.inf})
    values = {name: value for _, name, value in store.metrics(id)}
    assert math.isnan(values["x"])
    assert (values["y"], values["z"]) == (math.inf, -math.inf)


def test_samples_and_events(store: Store) -> None:
    id = store.start_run("ppo", "a", "b", {}, {})
    store.log_samples(id, 5, [{"prompt": "p", "response": "r", "score": 1.5, "kl": 0.1}, {"prompt": "é"}])
    store.log_samples(id, 5, [{"prompt": "again"}])
    store.log_samples(id, 10, [{"prompt": "q"}])
    for prompt in ("h", "held out"):
        store.log_samples(id, 5, [{"prompt": prompt}], heldout=True)
    held = {"step": 5, "prompt": "held out", "heldout": True}
    assert store.samples(id) == [{"step": 5, "prompt": "again"}, held, {"step": 10, "prompt": "q"}]
    assert store.samples(id, after_step=5) == [{"step": 10, "prompt": "q"}]
    store.log_event(id, 3, "out of memory, halved the batch")
    store.log_event(id, 2, "resumed")
    assert [(event.step, event.text) for event in store.events(id)] == [
        (3, "out of memory, halved the batch"),
        (2, "resumed"),
    ]


def test_going_back_keeps_the_held_out_answers_that_were_measured_there(store: Store) -> None:
    id = store.start_run("ppo", "a", "b", {}, {})
    for step in range(5):
        store.log_samples(id, step, [{"prompt": f"trained {step}"}])
        store.log_samples(id, step, [{"prompt": f"held out {step}"}], heldout=True)
        store.log_metrics(id, step, {"eval/kl": 0.5})
    store.rewind(id, 3)
    # After three steps, of which the last has index 2, what was measured stands, as the numbers do.
    assert [row["prompt"] for row in store.samples(id)] == [
        *(f"{kind} {step}" for step in range(3) for kind in ("trained", "held out")),
        "held out 3",
    ]
    assert [step for step, _, _ in store.metrics(id)] == [0, 1, 2, 3]


def test_a_run_is_found_by_its_id_and_else_by_what_it_makes(store: Store) -> None:
    store.start_run("sft", "manners", "b", {}, {})
    store.start_run("sft", "manners", "b", {}, {})
    store.start_run("ppo", "sft-1", "b", {}, {})
    assert [store.find_run(name).id for name in ("sft-1", "sft-2", "manners", "ppo-1")] == [
        *("sft-1", "sft-2", "sft-2", "ppo-1")
    ]
    with pytest.raises(StoreError, match="no run 'sft-3'; did you mean sft-2"):
        store.find_run("sft-3")


def test_an_unknown_run_names_the_nearest(store: Store) -> None:
    with pytest.raises(StoreError, match="no runs yet"):
        store.run("ppo-1")
    store.start_run("sft", "a", "b", {}, {})
    store.start_run("ppo", "a", "b", {}, {})
    calls = [
        lambda: store.run("ppo-11"),
        lambda: store.metrics("ppo-11"),
        lambda: store.samples("ppo-11"),
        lambda: store.events("ppo-11"),
        lambda: store.log_metrics("ppo-11", 1, {"a": 1}),
        lambda: store.log_samples("ppo-11", 1, []),
        lambda: store.log_event("ppo-11", 1, "x"),
        lambda: store.set_status("ppo-11", "done"),
        lambda: store.finish_run("ppo-11", "done", {}),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="no run 'ppo-11'; did you mean ppo-1"):
            call()
    with pytest.raises(StoreError, match="the newest is ppo-1"):
        store.run("zzz")


def test_metrics_are_cheap(store: Store) -> None:
    id = store.start_run("ppo", "a", "b", {}, {})
    start = time.perf_counter()
    for step in range(200):
        store.log_metrics(id, step, {f"metric{n}": float(n) for n in range(30)})
    assert (time.perf_counter() - start) / 200 < 0.02  # a step takes a tenth of a second or more


def test_only_metrics_and_samples_skip_the_disk_sync(store: Store) -> None:
    def level() -> int:
        return store.query("PRAGMA synchronous")[0][0]

    id = store.start_run("ppo", "a", "b", {}, {})
    store.log_metrics(id, 1, {"a": 1.0})
    assert level() == 2  # FULL again
    with pytest.raises(StoreError):
        store.log_metrics("nope", 1, {"a": 1.0})
    assert level() == 2
