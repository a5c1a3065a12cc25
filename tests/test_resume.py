"""Going on with a run: what may differ and is asked about, what must not, and what stood in the way."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time

import pytest

from lorarlhf import cli
from lorarlhf.checkpoints import keep_checkpoint, list_checkpoints
from lorarlhf.engine import resuming
from lorarlhf.engine.core import Engine
from lorarlhf.engine.exports import import_adapter
from lorarlhf.engine.requests import packed, unpacked
from lorarlhf.engine.training import resume, train
from lorarlhf.errors import AdapterError, RunDiffers, RunPaused, SettingsError, StoreError, TrainingError
from lorarlhf.library import list_saved
from lorarlhf.settings import CHANGEABLE, STAGES, LoadSettings, PPOSettings, SFTSettings
from lorarlhf.store.owners import OWNERS
from lorarlhf.types import Comparison, Demonstration, Outcome, user
from lorarlhf.workspace import Workspace
from tests import tiny
from tests.warm import WarmCommand

SFT = SFTSettings(
    learning_rate=5e-4,
    rank=2,
    alpha=4,
    heldout_share=0.2,
    batch_size=4,
    epochs=2,
    checkpoint_every=2,
    eval_every=3,
    micro_batch_tokens=128,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("bases") / "qwen3", arch="qwen3", layers=1)


@pytest.fixture
def engine(base, tmp_path):
    made = Engine(Workspace(tmp_path / "work"), LoadSettings(base=str(base), compute="fp32", device="cpu"))
    made.store.add_demonstrations(Demonstration(user(f"question {i}?"), f"answer {i}") for i in range(20))
    yield made
    made.store.close()


def pause_at(look: int):
    left = iter([False] * (look - 1) + [True])
    return lambda: next(left, False)


def paused(engine: Engine, settings=SFT, name="mine", look=15) -> str:
    with pytest.raises(RunPaused):
        train(engine, "sft", settings, name, paused=pause_at(look))
    return engine.store.runs()[-1].id


def numbers(engine: Engine, run: str) -> dict:
    return {(s, n): v for s, n, v in engine.store.metrics(run) if not n.startswith("time/")}


def test_other_versions_parents_and_rows_are_told_and_asked_about(engine, monkeypatch):
    train(engine, "sft", SFT, "parent")
    run = paused(engine, SFT.model_copy(update={"parent": "parent"}))
    assert engine.store.run(run).parents["versions"].keys() == set(resuming.PACKAGES)
    monkeypatch.setattr(resuming, "_version", lambda package: "99.0" if package == "torch" else "1")
    card = engine.workspace.adapters_dir / "parent" / "card.json"
    text = card.read_text()
    card.write_text(text.replace(engine.saved("parent").hash, "0" * 64))
    with engine.store.transaction() as db:
        db.execute("UPDATE demonstrations SET fingerprint = 'x' WHERE id = 3")
    with pytest.raises(RunDiffers) as caught:
        resume(engine, run)
    found = caught.value.differences
    assert any(line.startswith("torch 2.") and line.endswith("→ 99.0") for line in found)
    assert {
        "adapter parent (parent) has other weights than then",
        "some of its demonstrations are other ones than then",
    } <= set(found)
    assert str(caught.value).endswith(f"accept that with `lorarlhf resume {run} --yes`")
    assert engine.store.run(run).status == "paused"
    card.write_text(text)
    assert resume(engine, run, accept=True)["adapter"] == "mine"
    assert any("went on after step" in e.text and "→ 99.0" in e.text for e in engine.store.events(run))
    assert engine.store.run(run).parents["versions"]["torch"] == "99.0"


def test_the_app_gets_the_differences_as_such(engine):
    error = unpacked(json.loads(json.dumps(packed(RunDiffers("all", ["a 1 → 2", "b"])))))
    assert isinstance(error, RunDiffers)
    assert (str(error), error.differences) == ("all", ["a 1 → 2", "b"])


def test_a_setting_that_may_change_changes_the_steps_to_come(engine):
    whole = train(engine, "sft", SFT, "whole")
    run = paused(engine)
    step = engine.store.run(run).step
    assert engine.store.run(run).parents["computed"] == {"device": "cpu", "compute": "float32"}
    with pytest.raises(RunDiffers, match=r"learning_rate 0.0005 → 0\.1; accept .* --learning-rate 0\.1 --yes"):
        resume(engine, run, {"learning_rate": 0.1})
    result = resume(engine, run, {"learning_rate": 0.1}, accept=True)
    assert result["metrics"] != whole["metrics"]
    assert engine.store.run(run).settings["learning_rate"] == 0.1
    assert engine.saved("mine").card["settings"]["learning_rate"] == 0.1
    was, now = numbers(engine, "sft-1"), numbers(engine, run)
    assert {k: v for k, v in now.items() if 0 < k[0] <= step} == {k: v for k, v in was.items() if 0 < k[0] <= step}
    assert now[step + 1, "lr/sft"] > 50 * was[step + 1, "lr/sft"]


def test_other_micro_batches_and_more_epochs(engine):
    run = paused(engine)
    total = numbers(engine, run)[0, "run/steps"]
    resume(engine, run, {"micro_batch_tokens": 64, "epochs": 3}, accept=True)
    assert numbers(engine, run)[0, "run/steps"] > total
    assert engine.store.run(run).step > total


def test_what_must_stay_is_refused_in_words(engine):
    run = paused(engine)
    for changes, said in (
        ({"rank": 8}, "rank cannot change any more; these can: learning_rate, "),
        ({"seed": 1}, "seed cannot change"),
        ({"learning_rat": 1}, "unknown setting learning_rat; did you mean learning_rate"),
        ({"kl_coef": 1}, "unknown setting kl_coef"),
        ({"learning_rate": -1}, "learning_rate = -1: "),
    ):
        with pytest.raises(SettingsError, match=said):
            resume(engine, run, changes, accept=True)
    assert resume(engine, run, {"rank": SFT.rank})["adapter"] == "mine"  # the same is no change
    known = {name for group in STAGES.values() for name in group.model_fields}
    assert known >= CHANGEABLE


def test_a_new_kl_price_is_taken_and_a_steered_one_goes_on(base):
    from tests.faulty import forget, ppo
    from tests.test_sft import tiny_base

    loaded = tiny_base(base.parent / "llama")
    stage = ppo(loaded, kl_coef=0.5)
    stage.kl_control.coef = 0.7
    state = json.loads(json.dumps(stage.state()))
    forget(stage)
    for asked, expected in ((0.5, 0.7), (0.9, 0.9)):
        again = ppo(loaded, kl_coef=asked)
        again.load_state(state)
        assert again.kl_control.coef == expected
        forget(again)
    assert PPOSettings.model_fields.keys() >= {"kl_coef"}


def test_a_run_killed_before_it_was_saved_begins_again_with_the_same_numbers(engine):
    whole = train(engine, "sft", SFT, "whole")
    run = paused(engine, look=8)
    shutil.rmtree(engine.workspace.runs_dir / run)
    assert resume(engine, run)["metrics"] == whole["metrics"]
    assert numbers(engine, run) == numbers(engine, "sft-1")


def test_nobody_takes_the_name_that_a_paused_run_will_give(engine):
    run, place = paused(engine), engine.workspace
    other = train(engine, "sft", SFT, "other")["run"]
    said = f"adapter mine is what run {run}, which was stopped after step {engine.store.run(run).step}, will make"
    for take in (
        lambda: train(engine, "sft", SFT, "mine"),
        lambda: import_adapter(place, engine.store, engine.load_settings, "anywhere", "sft", "mine"),
        lambda: keep_checkpoint(engine.store, place, list_checkpoints(place)[0].name, "mine"),
    ):
        with pytest.raises(AdapterError, match=said):
            take()
    assert [one.name for one in list_saved(place.adapters_dir)] == ["other"]
    assert [one.id for one in engine.store.runs()] == [run, other]
    resume(engine, run)
    assert engine.saved("mine").card["run"] == run


def test_a_name_that_was_taken_meanwhile_by_hand_costs_no_adapter(engine):
    run = paused(engine)
    train(engine, "sft", SFT, "other")
    shutil.copytree(engine.saved("other").path, engine.workspace.adapters_dir / "mine")
    before = engine.saved("mine").card["run"]
    result = resume(engine, run)
    assert result["adapter"] == engine.store.run(run).adapter == "mine-2"
    assert engine.saved("mine").card["run"] == before
    assert engine.saved("mine-2").card["run"] == run


def test_a_run_killed_between_its_adapter_and_its_last_word_is_done_again(engine, monkeypatch):
    class Killed(BaseException):
        pass

    def dying(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(type(engine.store), "finish_run", dying)
        with pytest.raises(Killed):
            train(engine, "sft", SFT, "mine")
    weights = engine.saved("mine").content("adapter")
    assert resume(engine, "sft-1")["adapter"] == "mine"
    assert engine.saved("mine").content("adapter") == weights
    assert [path.name for path in engine.workspace.adapters_dir.iterdir()] == ["mine"]


def test_a_failed_run_can_be_resumed_with_other_settings(engine):
    with pytest.raises(TrainingError, match="go on with a lower learning rate, `lorarlhf resume sft-1 --learning-rate"):
        train(engine, "sft", SFT.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30}), "mine")
    row = engine.store.run("sft-1")
    assert row.status == "failed"
    assert row.error.startswith("step ")
    result = resume(engine, "sft-1", {"learning_rate": 1e-3, "max_grad_norm": 1.0}, accept=True)
    assert engine.store.run("sft-1").status == "done"
    assert result["metrics"]["eval/loss"] < 100


# -- whose run it is --------------------------------------------------------------------------------------------------


def own(engine: Engine, run: str, machine: str, boot: str = "") -> None:
    """Make it look as if a process of this very number works on a run, on another machine or before the last boot."""
    owners = engine.store.get_meta(OWNERS, {})
    me = [os.getppid(), 1.0, machine, boot]
    engine.store.set_meta(OWNERS, {**owners, run: me})
    engine.store.set_status(run, "running")


def test_a_run_of_another_machine_is_asked_about_until_it_falls_silent(engine):
    run = paused(engine)
    own(engine, run, "attic")
    engine.store.mark_interrupted()
    assert engine.store.run(run).status == "running"
    with pytest.raises(RunDiffers, match="it was at work on attic less than half an hour ago"):
        resume(engine, run)
    with pytest.raises(StoreError, match=r"at work in another process \(pid \d+ on attic\)"):
        engine.store.claim(run)
    assert resume(engine, run, accept=True)["adapter"] == "mine"


def test_a_silent_machine_and_an_earlier_boot_hold_no_run(engine):
    import platform

    run = paused(engine)
    own(engine, run, "attic")
    with engine.store.transaction() as db:
        db.execute("UPDATE runs SET updated = '2020-01-01T00:00:00.000000Z' WHERE id = ?", (run,))
    engine.store.mark_interrupted()
    assert engine.store.run(run).status == "interrupted"
    own(engine, run, platform.node(), "an earlier boot")
    engine.store.mark_interrupted()
    assert engine.store.run(run).status == "interrupted"
    assert resume(engine, run)["adapter"] == "mine"


# -- from the terminal ------------------------------------------------------------------------------------------------


def command(engine: Engine, monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lorarlhf", *arguments, "--workspace", str(engine.workspace.path)])
    try:
        cli.main()
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def test_the_terminal_tells_what_differs_and_asks(engine, monkeypatch, capfd):
    run = paused(engine)
    asked = ["resume", run, "--learning-rate", "0.01", "--gradient-checkpointing"]
    assert command(engine, monkeypatch, *asked) == 1  # nobody to ask
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert "learning_rate 0.0005 → 0.01; gradient_checkpointing False → True" in said
    assert f"`lorarlhf resume {run} --learning-rate 0.01 --gradient-checkpointing --yes`" in said
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: "n")
    assert command(engine, monkeypatch, *asked) == 1
    assert engine.store.run(run).status == "paused"
    capfd.readouterr()
    assert command(engine, monkeypatch, "runs", "--json") == 0
    before = json.loads(capfd.readouterr().out)[-1]["disk_bytes"]
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda text: "y")
    assert command(engine, monkeypatch, *asked) == 0
    assert engine.store.run(run).settings["gradient_checkpointing"] is True
    capfd.readouterr()
    assert command(engine, monkeypatch, "runs", "--json") == 0
    # Of a run that is done only the weights of its last checkpoints are kept.
    assert 1000 < json.loads(capfd.readouterr().out)[-1]["disk_bytes"] < before / 2
    assert not list(engine.workspace.runs_dir.rglob("tensors.safetensors"))


def test_another_process_goes_on_with_the_base_elsewhere_and_ctrl_c_pauses(engine, base, tmp_path):
    import signal

    engine.store.add_comparison(Comparison(user("q"), "a", "b", Outcome.A))
    whole = train(engine, "sft", SFT, "whole")
    run = paused(engine)
    with pytest.raises(RunPaused):
        train(engine, "sft", SFT.model_copy(update={"epochs": 1000.0}), "long", paused=pause_at(3))
    long = engine.store.runs()[-1].id
    shutil.copytree(base, tmp_path / "elsewhere")  # as on another machine
    place = ["--base", str(tmp_path / "elsewhere"), "--workspace", str(engine.workspace.path), "--json"]
    with (tmp_path / "out").open("w") as out, (tmp_path / "errors").open("w") as errors, open(os.devnull, "w") as away:
        at_work = WarmCommand(["resume", long, *place], away, errors)
        done = WarmCommand(["resume", run, *place], out, away)
        assert done.wait(180) == 0
        while not engine.store.run(long).step and at_work.poll() is None:
            time.sleep(0.01)
        at_work.send_signal(signal.SIGINT)
        at_work.wait(180)
    words = (tmp_path / "errors").read_text()
    assert json.loads((tmp_path / "out").read_text())["metrics"] == whole["metrics"]
    assert numbers(engine, run) == numbers(engine, "sft-1")
    assert at_work.returncode == 1
    assert "pausing; Ctrl-C again stops at once" in words
    assert f"everything is saved; go on with `lorarlhf resume {long}`" in words
    assert engine.store.run(long).status == "paused"


@pytest.mark.parametrize("created", ["2099-01-02T03:04:05+00:00", "2026-01-02T03:04:05", "yesterday"])
def test_a_new_adapter_is_the_newest_whatever_other_cards_say(engine, created):
    train(engine, "sft", SFT, "old")
    card = engine.workspace.adapters_dir / "old" / "card.json"
    card.write_text(json.dumps(json.loads(card.read_text()) | {"created": created}))
    train(engine, "sft", SFT, "new")
    assert (engine.saved("new").card["created"] > created) == (created != "yesterday")
