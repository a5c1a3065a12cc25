"""One side of the comparison: this project's PPO. Run by `benchmarks.ppo_vs_trl`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from benchmarks.critics import critic_settings
from benchmarks.peers.workloads import BATCH, EPOCHS, LEARNING_RATE, RANK, Meter, Work
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.hardware import release_memory
from lorarlhf.settings import LoadSettings, LoraSettings, PPOSettings
from lorarlhf.train import rollout
from lorarlhf.train.common import Studio
from lorarlhf.train.ppo import PPOStage
from lorarlhf.train.rollout import RewardScorer, Roles
from lorarlhf.train.team import Team


def measure(work: Work, steps: int, budget: int, critic: str = "head") -> dict[str, Any]:
    """Make PPO steps and say what they took; `budget` are the tokens of a micro-batch."""
    meter = Meter()
    stage = make_stage(work, steps, budget, critic)
    with timed(meter, stage) as tokens:
        meter.start()
        for step in range(steps):
            stage.step(step)
            release_memory()
            meter.step()
    return meter.report(tokens_per_answer=sum(tokens) / steps / BATCH, threads=torch.get_num_threads())


def make_stage(work: Work, steps: int, budget: int, critic: str) -> PPOStage:
    """Load the base and make the stage ready for its first step; the reference is the bare base."""
    base = load_base(LoadSettings.parse({"base": work.base, "bits": 4, "device": "cpu"}))
    if not work.ends:
        base = replace(base, eos_ids=frozenset())
    bank, lora = AdapterBank(base), LoraSettings(rank=RANK, alpha=2 * RANK)
    bank.create("policy", lora, seed=1)
    bank.create("reward", lora, head=True, seed=2)
    bank.freeze("reward")
    settings = PPOSettings(
        steps=steps,
        batch_size=BATCH,
        ppo_epochs=EPOCHS,
        mini_batches=1,
        max_new_tokens=work.answer,
        rollout_rows=BATCH,
        micro_batch_tokens=budget,
        learning_rate=LEARNING_RATE,
        value_learning_rate=LEARNING_RATE,
        value_warmup_steps=0,
        kl_budget=1e9,
        rank=RANK,
        **critic_settings(critic),
    )
    studio = Studio(base, bank, Team(base.device))
    roles = Roles(reference=None, value="reward")
    return PPOStage(studio, roles, settings, RewardScorer(studio, "reward"), work.prompts)


@contextmanager
def timed(meter: Meter, stage: PPOStage) -> Iterator[list[int]]:
    """Time sampling and training apart, and count the tokens drawn → the counts of each step."""
    draw, update = rollout.draw, stage.update
    counts: list[int] = []

    def timed_draw(*args: Any, **kwargs: Any) -> Any:
        with meter.phase("sampling"):
            found = draw(*args, **kwargs)
        counts.append(sum(len(completion.tokens) for completion in found))
        return found

    def timed_update(*args: Any, **kwargs: Any) -> Any:
        with meter.phase("training"):
            return update(*args, **kwargs)

    rollout.draw = timed_draw
    stage.update = timed_update  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        rollout.draw = draw


if __name__ == "__main__":
    print(json.dumps(measure(Work.read(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
