"""Every stage on a card: a played one, on which a tensor left with the processor is an error as on a real one.

Run by test_card.py in a process of its own: torch counts its devices when it first goes backward.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lorarlhf.engine import core
from lorarlhf.engine.best_of import judge_best_of
from lorarlhf.engine.drifting import judge_policy
from lorarlhf.engine.judging import judge
from lorarlhf.engine.training import train
from lorarlhf.export.probe import SPARE, measure
from lorarlhf.settings import STAGES, SamplingSettings
from lorarlhf.types import user
from tests.card import CardTensor, card
from tests.small_work import open_small, teach

TINY = {"rank": 2, "batch_size": 4, "checkpoint_every": 0}
PPO = {
    "steps": 3,
    "batch_size": 8,
    "max_new_tokens": 5,
    "eval_prompts": 2,
    "heldout_share": 0.5,
    "value_warmup_steps": 1,
}


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Open a workspace whose base lies on the card."""
    plain = core.load_base

    def onto_card(settings, progress=None):
        base = plain(settings, progress)
        base.model.to("card")
        return replace(base, device=torch.device("card", 0))

    monkeypatch.setattr(core, "load_base", onto_card)
    with card():
        made = open_small(tmp_path, bits=16)
        teach(made.store)
        yield made
        made.store.close()


def test_a_played_card_minds_mixed_devices():
    with card():
        there, here = torch.ones(2, device="card"), torch.ones(2)
        assert isinstance(there, CardTensor)
        assert (there + there.cpu().to("card")).tolist() == [2, 2]
        assert (there + torch.tensor(1)).tolist() == [2, 2]  # CUDA takes single numbers, but not everywhere
        mixes = [lambda: there + here, lambda: there.add_(here), lambda: torch.stack([there[0], torch.tensor(1.0)])]
        for mix in mixes:
            with pytest.raises(RuntimeError, match="expected all tensors on the same device"):
                mix()


@pytest.mark.parametrize("critic", ["none", "head", "adapter"])
def test_the_whole_loop_runs_on_a_card(engine, critic):
    for stage in ("sft", "reward", "ppo"):
        settings = {**TINY, **(PPO | {"critic": critic} if stage == "ppo" else {"epochs": 1})}
        made = train(engine, stage, STAGES[stage].parse(settings))
        assert made["metrics"]
    (answers,) = engine.generate([user("asked 1?")], 2, SamplingSettings(max_new_tokens=4), "ppo-1")
    assert len(answers) == 2
    assert len(engine.score("reward-1", [(user("asked 1?"), a.text) for a in answers])) == 2


def test_judging_and_measuring_run_on_a_card(engine, tmp_path):
    for stage in ("sft", "reward", "ppo"):
        train(engine, stage, STAGES[stage].parse({**TINY, **(PPO if stage == "ppo" else {"epochs": 1})}))
    assert judge(engine, "reward-1", SamplingSettings(max_new_tokens=4), 2)["scored"]
    assert judge_policy(engine, "ppo-1", 2, max_new_tokens=4)["drawn"]
    assert judge_best_of(engine, "ppo-1", "reward-1", 2, 2, max_new_tokens=4)["drawn"]
    with engine.borrowed("reward-1") as name:
        measure(engine.base, engine.bank, name, SPARE, tmp_path)
