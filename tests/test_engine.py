"""The whole loop through the engine, on a miniature base and votes that were not made for it."""

from __future__ import annotations

import shutil

import pytest
from transformers import AutoTokenizer

from lorarlhf.base import base_hash
from lorarlhf.data.chat import encode_prompt
from lorarlhf.engine.core import Engine
from lorarlhf.engine.journal import readable
from lorarlhf.engine.training import resume, train
from lorarlhf.errors import AdapterError, RunPaused, TrainingError
from lorarlhf.settings import LoadSettings, PPOSettings, RewardSettings, SamplingSettings, SFTSettings
from lorarlhf.starter import MODEL_DIR
from lorarlhf.types import Comparison, Demonstration, Message, Outcome, Ranking, user
from lorarlhf.workspace import Workspace
from tests import tiny

SMALL = {"rank": 4, "alpha": 8, "micro_batch_tokens": 256, "checkpoint_every": 1, "heldout_share": 0.25}
SFT = SFTSettings(**SMALL, epochs=1, batch_size=4, eval_every=2)
REWARD = RewardSettings(**SMALL, epochs=1, batch_size=4, eval_every=2)
PPO = PPOSettings(
    **SMALL,
    critic="head",
    answers_per_prompt=1,
    steps=3,
    batch_size=4,
    max_new_tokens=6,
    value_warmup_steps=1,
    eval_every=2,
    eval_prompts=4,
    sample_every=1,
)


@pytest.fixture
def engine(tmp_path):
    folder = tiny.save(tmp_path / "base", arch="qwen3")
    made = Engine(Workspace(tmp_path / "work"), LoadSettings(base=str(folder), compute="fp32", device="cpu"))
    yield made
    made.store.close()


def fill(engine: Engine) -> None:
    prompts = [user(f"question number {i}?") for i in range(16)]
    engine.store.add_demonstrations(Demonstration(p, f"answer {i}") for i, p in enumerate(prompts))
    engine.store.add_comparisons(
        Comparison(p, "short", "a much longer answer", list(Outcome)[i % 5]) for i, p in enumerate(prompts)
    )
    engine.store.add_comparisons(Comparison(p, "short", "rather long answer", Outcome.A) for p in prompts)
    engine.store.add_ranking(Ranking(prompts[0], ("x", "y", "z"), (1, 2, 2)))


@pytest.fixture
def filled(engine):
    fill(engine)
    return engine


def adapter_bytes(engine: Engine, name: str) -> bytes:
    return (engine.workspace.adapters_dir / name / "adapter_model.safetensors").read_bytes()


def test_the_loop_ends_with_three_adapters_one_untouched_base_and_a_full_record(filled):
    before = base_hash(filled.base.model)
    bare = filled.generate([user("hello?")], 2, SamplingSettings(max_new_tokens=5))
    for stage, settings in (("sft", SFT), ("reward", REWARD), ("ppo", PPO)):
        result = train(filled, stage, settings)
        assert result["adapter"] == f"{stage}-1"
        assert filled.bank.names == []  # every job leaves the bare base behind
    assert base_hash(filled.base.model) == before
    assert filled.generate([user("hello?")], 2, SamplingSettings(max_new_tokens=5)) == bare
    assert filled.saved("ppo-1").card["parents"]["sft"]["name"] == "sft-1"
    assert filled.saved("ppo-1").card["parents"]["reward"]["hash"] == filled.saved("reward-1").hash
    assert filled.saved("sft-1").card["data"]["demonstrations"] == list(range(1, 17))
    assert [run.status for run in filled.store.runs()] == ["done"] * 3
    names = {name for _, name, _ in filled.store.metrics("ppo-1")}
    assert {"objective/kl", "objective/scores_min", "policy/clipfrac", "val/explained_variance", "eval/scores"} <= names
    samples = filled.store.samples("ppo-1")
    assert {"step", "prompt", "response", "score", "kl", "ended"} <= samples[0].keys()
    assert any("question number" in line for line in samples[0]["prompt"].splitlines())
    # Those of each measurement on held-out prompts are kept beside them: here all four that were measured.
    measured = {step: value for step, name, value in filled.store.metrics("ppo-1") if name == "eval/scores"}
    heldout = {step: [s["score"] for s in samples if s["step"] == step and s.get("heldout")] for step in measured}
    assert set(measured) == {0, 2, 3}
    assert {step: sum(scores) / 4 for step, scores in heldout.items()} == pytest.approx(measured, rel=1e-5)
    assert {s["step"] for s in samples if not s.get("heldout")} == {0, 1, 2}
    answers = [(user("hello?"), "short"), (user("hello?"), "a much longer answer")]
    assert len(filled.score("reward-1", answers)) == 2


@pytest.mark.parametrize(("stage", "settings"), [("sft", SFT), ("reward", REWARD), ("ppo", PPO)])
def test_a_paused_run_goes_on_to_the_same_numbers(filled, stage, settings):
    if stage == "ppo":
        train(filled, "reward", REWARD)
    whole = train(filled, stage, settings, name="whole")
    asked = iter([False] * 10 + [True])
    with pytest.raises(RunPaused, match="everything is saved; go on with `lorarlhf resume"):
        train(filled, stage, settings, name="halves", paused=lambda: next(asked, False))
    row = filled.store.runs()[-1]
    assert row.status == "paused"
    filled.store.add_demonstration(Demonstration(user("late question number 99?"), "added while paused"))
    filled.store.undo("comparisons", 20)
    halves = resume(filled, row.id)
    assert halves["metrics"] == whole["metrics"]
    assert adapter_bytes(filled, "halves") == adapter_bytes(filled, "whole")
    assert filled.store.run(row.id).status == "done"
    with pytest.raises(TrainingError, match="is done; its adapter is halves"):
        resume(filled, row.id)


def test_a_crash_leaves_a_run_that_can_be_resumed(filled, monkeypatch):
    from lorarlhf.train import sft

    step = sft.SFTStage.step

    def dying(self, index):
        if index == 2:
            raise KeyboardInterrupt
        return step(self, index)

    monkeypatch.setattr(sft.SFTStage, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        train(filled, "sft", SFT, name="mine")
    assert filled.store.runs()[-1].status == "interrupted"
    assert filled.bank.names == []
    monkeypatch.setattr(sft.SFTStage, "step", step)
    assert resume(filled, "sft-1")["adapter"] == "mine"


def test_requests_that_cannot_be_met_record_nothing(engine):
    for stage, settings, said in (
        ("sft", SFT, "no demonstrations to learn from"),
        ("reward", REWARD, "no votes for either answer"),
        ("ppo", PPO, "no reward model on this base yet"),
    ):
        with pytest.raises(TrainingError, match=said):
            train(engine, stage, settings)
    fill(engine)
    with pytest.raises(AdapterError, match="no adapter ghost; there are: none yet"):
        train(engine, "sft", SFTSettings(parent="ghost"))
    for name, near in (("../outside", "outside"), ("mine.v2", "mine-v2"), ("base", "base-1")):
        with pytest.raises(AdapterError, match=f"use letters, digits, '_' and '-' .*; {near} is free"):
            train(engine, "sft", SFT, name=name)
    train(engine, "sft", SFT, name="mine")
    with pytest.raises(AdapterError, match="mine exists already"):
        train(engine, "sft", SFT, name="mine")
    with pytest.raises(AdapterError, match="mine is no reward model"):
        train(engine, "ppo", PPO.model_copy(update={"reward": "mine"}))
    with pytest.raises(AdapterError, match="mine is no reward model"):
        engine.score("mine", [(user("a"), "b")])
    assert [run.id for run in engine.store.runs()] == ["sft-1"]
    assert engine.bank.names == []


def test_a_run_does_not_go_on_on_another_base(filled, tmp_path):
    asked = iter([True])
    with pytest.raises(RunPaused):
        train(filled, "sft", SFT, paused=lambda: next(asked))
    other = Engine(filled.workspace, LoadSettings(base=str(tiny.save(tmp_path / "other", arch="llama")), device="cpu"))
    with pytest.raises(TrainingError, match=r"is on base .* another one"):
        resume(other, "sft-1")
    other.store.close()


def test_policy_can_start_from_an_earlier_policy_with_the_same_reference(filled):
    train(filled, "reward", REWARD)
    train(filled, "ppo", PPO, name="round-1")
    onward = PPO.model_copy(update={"parent": "round-1", "sft": "base", "heldout_share": 0.0})
    result = train(filled, "ppo", onward)
    assert filled.saved(result["adapter"]).card["parents"]["parent"]["name"] == "round-1"


def test_two_turns_of_a_sampled_prompt_never_run_together():
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    turns = (*user("I bought it."), Message(role="assistant", content="Good."), *user("Send the link."))
    text = readable(tokenizer, encode_prompt(tokenizer, turns, 1000))
    assert text.splitlines() == ["I bought it.", "Good.", "Send the link."]


def test_the_last_few_adapters_stay_in_memory_until_training_needs_it_or_they_change(filled):
    here = filled.workspace.adapters_dir
    train(filled, "sft", SFT, "one")
    train(filled, "sft", SFT.model_copy(update={"seed": 7, "learning_rate": 0.05}), "two")
    for copy in ("x1", "x2", "x3"):
        shutil.copytree(here / "one", here / copy)
    sampling = SamplingSettings(max_new_tokens=12)
    answers = {name: filled.generate([user("why?")], 4, sampling, name) for name in ("one", "two", "x1", "x2", "x3")}
    assert filled.bank.names == ["x1", "x2", "x3"]
    assert answers["x1"] == answers["x3"] == answers["one"] != answers["two"]
    shutil.rmtree(here / "x1")
    shutil.copytree(here / "two", here / "x1")
    assert filled.generate([user("why?")], 4, sampling, "x1") == answers["two"]
    assert filled.bank.names == ["x2", "x3", "x1"]
    train(filled, "sft", SFT, "three")
    assert filled.bank.names == []
