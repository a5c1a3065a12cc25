"""One side of the comparison: this project's SFT and reward model. Run by `benchmarks.sft_reward_vs_trl`."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from benchmarks.peers.texts import LORA, SEED, TextWork, head_weight
from benchmarks.peers.workloads import BATCH, LEARNING_RATE, Meter
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.data.pairs import Pair, Vote
from lorarlhf.data.tokens import Row
from lorarlhf.hardware import release_memory
from lorarlhf.settings import LoadSettings, LoraSettings, RewardSettings, SFTSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.reward import RewardStage
from lorarlhf.train.sft import SFTStage
from lorarlhf.train.team import Team
from lorarlhf.types import Demonstration, user


def measure(work: TextWork, steps: int, budget: int, device: str = "cpu") -> dict[str, Any]:
    """Make steps of a stage and say what they took; `budget` are the tokens of a micro-batch."""
    meter = Meter()
    stage = make_stage(work, steps, budget, device)
    examples = [_tokens(stage, batch) for batch in work.batches(steps)]
    losses = []
    meter.start()
    for step in range(steps):
        losses.append(stage.step(step)[f"loss/{work.stage}"])
        release_memory()
        meter.step()
    return meter.report(first_loss=losses[0], tokens=sum(examples[1:]), threads=torch.get_num_threads())


def make_stage(work: TextWork, steps: int, budget: int, device: str = "cpu") -> SFTStage | RewardStage:
    """Load the base and make the stage ready for its first step."""
    base = load_base(LoadSettings.parse({"base": work.base, "bits": 4, "device": device}))
    bank = AdapterBank(base)
    bank.create("trained", LoraSettings(**LORA), head=work.stage == "reward", seed=SEED)
    studio = Studio(base, bank, Team(base.device))
    common: dict[str, Any] = {
        "epochs": steps * BATCH / len(work.rows),
        "batch_size": BATCH,
        "micro_batch_tokens": budget,
        "learning_rate": LEARNING_RATE,
        "heldout_share": 0.0,
        "seed": SEED,
        **LORA,
    }
    if work.stage == "sft":
        said = [Demonstration(user(row.prompt), row.chosen) for row in work.rows]
        return SFTStage(studio, "trained", SFTSettings(**common), said)
    with torch.no_grad():
        bank.heads["trained"].weight.copy_(head_weight(base.hidden_size))
    votes = [Vote((Pair(user(row.prompt), row.chosen, row.rejected),)) for row in work.rows]
    return RewardStage(studio, "trained", RewardSettings(**common), votes)


def token_rows(stage: SFTStage | RewardStage) -> list[tuple[Row, ...]]:
    """List the sequences of each example: one, or the two of a pair."""
    if isinstance(stage, SFTStage):
        return [(row,) for row in stage.rows]
    return [tuple(vote.rows) for vote in stage.votes]


def _tokens(stage: SFTStage | RewardStage, batch: list[int]) -> int:
    rows = token_rows(stage)
    return sum(row.length for index in batch for row in rows[index])


if __name__ == "__main__":
    print(json.dumps(measure(TextWork.read(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
