"""Stages on sequences of random tokens, all of one length, so that sizes are known and nothing ends early."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.critics import critic_settings
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import Base
from lorarlhf.data.pairs import Pair, Vote
from lorarlhf.data.tokens import Row
from lorarlhf.settings import LoraSettings, PPOSettings, RewardSettings, SFTSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.ppo import PPOStage
from lorarlhf.train.reward import RewardStage
from lorarlhf.train.rollout import RewardScorer, Roles
from lorarlhf.train.sft import SFTStage
from lorarlhf.train.team import Team
from lorarlhf.types import Demonstration, user

EXAMPLES = 64
PLACE = "its tokens are put in its place"
"""A stage wants to be made of texts; these are replaced by tokens."""


def make_stage(
    kind: str,
    bank: AdapterBank,
    prompt: int,
    answer: int,
    in_flight: int,
    *,
    batch: int = 16,
    rank: int = 16,
    checkpointing: bool = False,
    critic: str = "head",
) -> Any:
    """Make a stage with new adapters: `in_flight` are the tokens of a micro-batch. PPO has a frozen SFT reference.

    For answers of one length in PPO the base must have no end marks.
    """
    base = bank.base
    studio = Studio(base, bank, Team(base.device))
    lora = LoraSettings(rank=rank, alpha=2 * rank)
    common: dict[str, Any] = {
        "rank": rank,
        "alpha": 2 * rank,
        "batch_size": batch,
        "micro_batch_tokens": in_flight,
        "max_length": max(8, prompt + answer),
        "gradient_checkpointing": checkpointing,
        "learning_rate": 1e-5,
        "heldout_share": 0.0,
    }
    if kind == "ppo":
        return _ppo(studio, lora, common | critic_settings(critic), prompt, answer)
    bank.create("trained", lora, head=kind == "reward", seed=1)
    if kind == "sft":
        sft = SFTStage(studio, "trained", SFTSettings(**common), [Demonstration(user(PLACE), PLACE)] * EXAMPLES)
        sft.rows = _rows(base, prompt, answer, EXAMPLES)
        return sft
    reward = RewardStage(
        studio, "trained", RewardSettings(**common), [Vote((Pair(user(PLACE), PLACE, "x"),))] * EXAMPLES
    )
    rows = _rows(base, prompt, answer, 2 * EXAMPLES)
    reward.votes = [
        made._replace(rows=[one, other]) for made, one, other in zip(reward.votes, rows[::2], rows[1::2], strict=True)
    ]
    return reward


def _ppo(studio: Studio, lora: LoraSettings, common: dict[str, Any], prompt: int, answer: int) -> PPOStage:
    bank = studio.bank
    bank.create("reference", lora, seed=1)
    bank.freeze("reference")
    bank.copy("reference", "policy")
    bank.create("reward", lora, head=True, seed=2)
    bank.freeze("reward")
    settings = PPOSettings(
        **common | {"max_length": common["max_length"] + 1},
        steps=8,
        ppo_epochs=1,
        mini_batches=1,
        max_new_tokens=answer,
        rollout_rows=common["batch_size"],
        value_learning_rate=1e-5,
        value_warmup_steps=0,
        kl_budget=1e9,
    )
    prompts = [row.prompt for row in _rows(studio.base, prompt, answer, EXAMPLES)]
    return PPOStage(studio, Roles(value="reward"), settings, RewardScorer(studio, "reward"), prompts)


def _rows(base: Base, prompt: int, answer: int, count: int) -> list[Row]:
    words = torch.Generator().manual_seed(3)
    drawn = torch.randint(8, base.vocabulary, (count, prompt + answer), generator=words).tolist()
    return [Row(tokens[:prompt], tokens[prompt:]) for tokens in drawn]
