"""One side of the comparison: this project's PPO. Run by `benchmarks.ppo_vs_trl`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import torch

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


def main(work: Work, steps: int, budget: int) -> None:
    """Make PPO steps and print what they took."""
    meter = Meter()
    base = load_base(LoadSettings(base=work.base, bits=4, device="cpu"))
    if not work.ends:
        base = replace(base, eos_ids=frozenset())
    bank, lora = AdapterBank(base), LoraSettings(rank=RANK, alpha=2 * RANK)
    bank.create("policy", lora, seed=1)
    for name in ("reward", "value"):
        bank.create(name, lora, head=True, seed=2)
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
    )
    studio = Studio(base, bank, Team(base.device))
    stage = PPOStage(studio, Roles(reference=None), settings, RewardScorer(studio, "reward", settings), work.prompts)
    draw, update = rollout.draw, stage.update
    tokens = 0

    def timed_draw(*args, **kwargs):  # type: ignore[no-untyped-def]
        nonlocal tokens
        with meter.phase("sampling"):
            found = draw(*args, **kwargs)
        tokens += sum(len(completion.tokens) for completion in found)
        return found

    def timed_update(*args, **kwargs):  # type: ignore[no-untyped-def]
        with meter.phase("training"):
            return update(*args, **kwargs)

    rollout.draw = timed_draw
    stage.update = timed_update  # type: ignore[method-assign]
    meter.start()
    for step in range(steps):
        stage.step(step)
        release_memory()
        meter.step()
    print(json.dumps(meter.report(tokens_per_answer=tokens / steps / BATCH, threads=torch.get_num_threads())))


if __name__ == "__main__":
    main(Work.read(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
