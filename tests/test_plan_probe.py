"""The probe and the engine's plans: they measure, they leave nothing behind, and they say what they assumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lorarlhf.base import base_hash
from lorarlhf.engine.client import EngineClient
from lorarlhf.engine.core import Engine
from lorarlhf.engine.planning import plan
from lorarlhf.engine.training import train
from lorarlhf.errors import AdapterError
from lorarlhf.plan.peak import allocated
from lorarlhf.plan.probe import NAME, probe
from lorarlhf.plan.work import Length
from lorarlhf.settings import LoadSettings, LoraSettings, PPOSettings, RewardSettings, SamplingSettings, SFTSettings
from lorarlhf.types import Comparison, Demonstration, Outcome, user
from lorarlhf.workspace import Workspace
from tests import tiny

SMALL = {"rank": 4, "micro_batch_tokens": 256, "checkpoint_every": 1, "heldout_share": 0.25, "batch_size": 8}
SFT = SFTSettings(**SMALL, epochs=1, eval_every=2)
REWARD = RewardSettings(**SMALL, epochs=1, eval_every=2)
PPO = PPOSettings(**SMALL, steps=2, max_new_tokens=6, value_warmup_steps=1, eval_every=2, eval_prompts=4)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    folder = tiny.save(tmp_path / "base", arch="qwen3", hidden=128, inner=320)
    made = Engine(Workspace(tmp_path / "work"), LoadSettings(base=str(folder), compute="fp32", device="cpu"))
    prompts = [user(f"question number {i}?") for i in range(24)]
    made.store.add_demonstrations(Demonstration(p, f"answer {i}") for i, p in enumerate(prompts))
    made.store.add_comparisons(Comparison(p, "short", "a longer answer", Outcome.B) for p in prompts)
    yield made
    made.store.close()


def test_the_probe_leaves_the_engine_as_it_was(engine: Engine) -> None:
    engine.bank.create("mine", LoraSettings(rank=4), head=True)
    engine.bank.freeze("mine")
    before, weights = base_hash(engine.base.model), {k: v.clone() for k, v in engine.bank.state("mine").items()}
    asked = [user("hello?")], 2, SamplingSettings(max_new_tokens=5)
    answers, random_state = engine.generate(*asked), torch.get_rng_state()
    for settings in (PPO, SFTSettings.parse({**SFT.model_dump(), "gradient_checkpointing": True})):
        found = probe(engine.studio, settings, [(Length(8, 8),), (Length(5, 9),)])
        assert engine.bank.names == ["mine"]
        assert list(engine.bank.heads) == ["mine"]
        assert all(n >= 0 for n in found.pace)
        assert found.pace.learn_passes + found.pace.learn_tokens > 0
    assert torch.equal(torch.get_rng_state(), random_state)
    assert not engine.base.model.training
    assert not any(module.training for module in engine.base.model.modules())
    assert not getattr(engine.base.model, "is_gradient_checkpointing", False)
    assert all(p.grad is None for p in engine.base.model.parameters())
    assert not any(p.requires_grad for p in engine.base.model.parameters())
    assert all(torch.equal(v, weights[k]) for k, v in engine.bank.state("mine").items())
    assert base_hash(engine.base.model) == before
    assert engine.generate(*asked) == answers


def test_a_probe_that_breaks_leaves_nothing_behind(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> float:
        raise MemoryError

    monkeypatch.setattr("lorarlhf.plan.probe._Probe._update", fail)
    with pytest.raises(MemoryError):
        probe(engine.studio, SFT, [(Length(8, 8),), (Length(5, 9),)])
    assert engine.bank.names == []
    with pytest.raises(AdapterError, match="no adapter"):
        engine.bank.state(NAME)


def test_what_is_probed_corrects_formula_and_time(engine: Engine) -> None:
    plain, probed = plan(engine, "sft", SFT, probing=False), plan(engine, "sft", SFT)
    assert plain.seconds is None
    assert probed.seconds is not None
    assert probed.seconds["learn"] > 0
    assert probed.probed is not None
    ratio = probed.probed.correction.learn
    assert 0.5 < ratio < 2
    before, after = (next(p for p in found.phases if p.name == "learn") for found in (plain, probed))
    wanted = ratio * (before.parts["activations"] + before.parts["logits"])
    assert after.parts["activations"] + after.parts["logits"] == pytest.approx(wanted)
    json.dumps(probed.as_json())


def test_a_probe_is_made_once_for_all_that_does_not_change_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []

    def counting(*args: Any, **more: Any) -> Any:
        made.append(args[1])
        return probe(*args, **more)

    monkeypatch.setattr("lorarlhf.plan.probe.probe", counting)
    settings = lambda **changes: SFTSettings.parse({**SFT.model_dump(), **changes})  # noqa: E731
    first = plan(engine, "sft", SFT)
    for changes in ({}, {"epochs": 3}, {"learning_rate": 0.01}, {"checkpoint_every": 0}):
        again = plan(engine, "sft", settings(**changes))
        assert again.probed is first.probed
    assert len(made) == 1
    for number, changes in enumerate(({"micro_batch_tokens": 128}, {"rank": 2}, {"gradient_checkpointing": True})):
        plan(engine, "sft", settings(**changes))
        assert len(made) == number + 2


@pytest.mark.parametrize(("stage", "settings"), [("sft", SFT), ("reward", REWARD), ("ppo", PPO)])
def test_the_peak_of_a_whole_run_is_within_a_tenth(engine: Engine, stage: str, settings: Any) -> None:
    if stage == "ppo":
        train(engine, "reward", REWARD)
    # Lists of the runs' own, which are no part of the formulas, weigh little beside passes of this size.
    settings = type(settings).parse({**settings.model_dump(), "micro_batch_tokens": 4096, "batch_size": 16})
    with torch.no_grad():
        planned = plan(engine, stage, settings, probing=False)
    with allocated(engine.base.device) as peak:
        train(engine, stage, settings)
    parts = planned.peak.parts
    beyond = planned.peak.total - parts["base"] - parts["runtime"] - parts["heap"]
    assert beyond == pytest.approx(peak.bytes, rel=0.1)
    assert engine.bank.names == []


@pytest.mark.parametrize("epochs", [0.5, 1.0, 2.0])
def test_the_peak_of_a_run_of_large_adapters_counts_what_it_can_go_back_to(engine: Engine, epochs: float) -> None:
    settings = SFTSettings.parse({**SFT.model_dump(), "rank": 64, "micro_batch_tokens": 64, "epochs": epochs})
    with torch.no_grad():
        planned = plan(engine, "sft", settings, probing=False)
    with allocated(engine.base.device) as peak:
        train(engine, "sft", settings)
    parts = planned.peak.parts
    beyond = planned.peak.total - parts["base"] - parts["runtime"] - parts["heap"]
    assert beyond == pytest.approx(peak.bytes, rel=0.1)


def test_ppo_plans_with_the_ranks_of_its_parents(engine: Engine) -> None:
    train(engine, "sft", SFTSettings.parse({**SFT.model_dump(), "rank": 2}))
    train(engine, "reward", RewardSettings.parse({**REWARD.model_dump(), "rank": 6, "parent": "base"}))
    for critic, trained in (("head", (2,)), ("adapter", (2, 6))):
        settings = PPOSettings.parse({**PPO.model_dump(), "critic": critic})
        demand = plan(engine, "ppo", settings, probing=False).work.demand
        assert (demand.trained, demand.frozen, demand.heads) == (trained, (2, 6), 2)


@pytest.mark.usefixtures("warm_engines")
def test_the_client_plans_through_the_pipe(engine: Engine) -> None:
    engine.store.close()
    with EngineClient(engine.workspace.path, engine.load_settings) as client:
        found = client.plan("reward", REWARD).result(120)
        assert found["stage"] == "reward"
        assert found["fits"] is True
        assert found["seconds"] > 0
        assert found["peak_bytes"] == sum(found["parts"].values())
        assert client.describe().result(30)["adapters"] == {}
        assert client.plan("ppo", PPO, probing=False).result(120)["seconds"] is None
