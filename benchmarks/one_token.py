"""PPO against mathematics: answers of one token with known rewards have a known best policy.

With reward r(x) per token and KL price β against π_ref, the best policy is π ∝ π_ref · exp(r/β) (Ziegler et al.
2019; Rafailov et al. 2023, equation 4). The real PPO stage trains a LoRA adapter on a small random Llama towards
it; printed is how far it ends from there.

    python -m benchmarks.one_token [--critic head|none]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.critics import add_critic, critic_settings
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import Base, load_base
from lorarlhf.data.cutting import Budget
from lorarlhf.data.tokens import Row, collate
from lorarlhf.forward import hidden_states
from lorarlhf.settings import LoadSettings, LoraSettings, PPOSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.ppo import PPOStage
from lorarlhf.train.rollout import Roles
from lorarlhf.train.team import Team

V = 12
PROMPT = [1, 2, 3]
SETTINGS = PPOSettings(
    steps=80,
    batch_size=1024,
    max_new_tokens=1,
    rollout_rows=1024,
    micro_batch_tokens=4096,
    learning_rate=2e-2,
    value_learning_rate=2e-2,
    value_warmup_steps=3,
    schedule="linear",
    critic="head",
    answers_per_prompt=1,
    ppo_epochs=1,
    mini_batches=1,
    kl_coef=1.0,
    # At the optimum every advantage is 0; whitening would blow the noise up to size 1 and never come to rest.
    whiten_advantages=False,
    heldout_share=0.0,
    rank=8,
    alpha=16,
)


def small_base(folder: Path) -> Base:
    """Make a Llama of 12 tokens whose logits can spread (a large output layer), and load it in 4 bits."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=V, hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, pad_token_id=0
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(10)
    model.save_pretrained(folder)
    letters = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate("abcdefghijkl")}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="a", eos_token="b").save_pretrained(folder)
    base = load_base(LoadSettings(base=str(folder), bits=4, device="cpu", compute="fp32"))
    # Whatever token an answer is, it is whole.
    return replace(base, eos_ids=frozenset(range(V)))


def policy_of(base: Base, bank: AdapterBank, adapter: str | None) -> torch.Tensor:
    """Compute the distribution of the next token → [V]."""
    with torch.no_grad(), bank.activate(adapter):
        hidden_H = hidden_states(base, collate([Row(PROMPT, [])], 0))[0, -1]
        return torch.softmax(base.logits_of(hidden_H[None])[0].double(), -1)


def divergence(p: torch.Tensor, q: torch.Tensor) -> float:
    """Return KL(p ‖ q) in nats."""
    return float((p * (p / q).log()).sum())


def run(seed: int = 0, settings: PPOSettings = SETTINGS) -> dict[str, float]:
    """Train once; return the distances from the closed form, in nats, at start and end."""
    with tempfile.TemporaryDirectory() as folder:
        base = small_base(Path(folder))
    bank = AdapterBank(base)
    bank.create("policy", LoraSettings(rank=settings.rank, alpha=settings.alpha), seed=seed)
    bank.create("value", LoraSettings(rank=settings.rank, alpha=settings.alpha), head=True, seed=seed + 1)
    rewards_V = torch.randn(V, generator=torch.Generator().manual_seed(7))

    def scorer(rows: list[Row], budget: Budget) -> torch.Tensor:
        return rewards_V[[row.response[-1] for row in rows]]

    reference_V = policy_of(base, bank, None)
    studio = Studio(base, bank, Team())
    roles = Roles(reference=None)
    stage = PPOStage(studio, roles, settings.model_copy(update={"seed": seed}), scorer, [PROMPT])
    began = time.perf_counter()
    for step in range(stage.total):
        stage.step(step)
    final_V = policy_of(base, bank, "policy")
    # The price of a nat counts in spreads of the reward at the start.
    price = settings.kl_coef * (stage.spread or 1.0)
    best_V = torch.softmax(reference_V.log() + rewards_V.double() / price, -1)
    return {
        "seed": seed,
        "start_nats": divergence(reference_V, best_V),
        "policy_to_best_nats": divergence(final_V, best_V),
        "best_to_policy_nats": divergence(best_V, final_V),
        "seconds": time.perf_counter() - began,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_critic(parser)
    chosen = SETTINGS.model_copy(update=critic_settings(parser.parse_args().critic))
    torch.set_num_threads(1)
    results = [run(seed, chosen) for seed in range(3)]
    print(json.dumps({"asked_nats": 0.02, "runs": results}, indent=2))
