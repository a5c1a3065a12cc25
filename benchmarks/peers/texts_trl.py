"""The other side: SFT and reward model of trl 1.12.0. Run by `benchmarks.sft_reward_vs_trl`.

It gets the same texts in the order in which this project takes them, as conversations that it tokenises itself: prompt
and completion with the loss on the completion alone, or prompt, chosen and rejected. No packing, no checkpointing.
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoTokenizer
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from benchmarks.peers.texts import TextWork, head_weight
from benchmarks.peers.trl_models import Steps, load_causal, load_scalar, lora, options
from benchmarks.peers.workloads import BATCH, Meter


def measure(work: TextWork, steps: int, micro_batch: int, loss_type: str = "nll") -> dict[str, Any]:
    """Make optimizer steps and say what they took; `loss_type` is how SFT computes its loss."""
    meter = Meter()
    clock = Steps(meter)
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(work, steps, micro_batch, loss_type, folder, clock)
        counts = [sum(map(len, sequences)) for sequences in token_ids(work, trainer)]
        trainer.train()
    return meter.report(first_loss=clock.losses[0], tokens=sum(counts[BATCH:]), threads=torch.get_num_threads())


def make_trainer(
    work: TextWork, steps: int, micro_batch: int, loss_type: str, folder: str, clock: Steps
) -> SFTTrainer | RewardTrainer:
    """Load the base and make the trainer ready for its first step."""
    tokenizer = AutoTokenizer.from_pretrained(work.base)
    common: dict[str, Any] = {
        **options(folder),
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": BATCH // micro_batch,
        "max_steps": steps,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
    }
    rows = [_conversations(work, index) for batch in work.batches(steps) for index in batch]
    shared: dict[str, Any] = {
        "train_dataset": Dataset.from_list(rows),
        "processing_class": tokenizer,
        "callbacks": [clock],
    }
    if work.stage == "sft":
        told = SFTConfig(**common, packing=False, completion_only_loss=True, loss_type=loss_type)
        model = load_causal(work.base)
        return SFTTrainer(model=model, args=told, peft_config=lora("CAUSAL_LM"), **shared)
    model = load_scalar(work.base)
    with torch.no_grad():
        model.score.weight.copy_(head_weight(model.config.hidden_size))
    return RewardTrainer(model=model, args=RewardConfig(**common), peft_config=lora("SEQ_CLS"), **shared)


def _conversations(work: TextWork, index: int) -> dict[str, list[dict[str, str]]]:
    row = work.rows[index]
    asked = [{"role": "user", "content": row.prompt}]
    chosen, rejected = ([{"role": "assistant", "content": text}] for text in (row.chosen, row.rejected))
    if work.stage == "sft":
        return {"prompt": asked, "completion": chosen}
    return {"prompt": asked, "chosen": chosen, "rejected": rejected}


def token_ids(work: TextWork, trainer: SFTTrainer | RewardTrainer) -> list[tuple[list[int], ...]]:
    """List the sequences of each row as the trainer tokenised them: one, or the two of a pair."""
    names = ("input_ids",) if work.stage == "sft" else ("chosen_ids", "rejected_ids")
    return [tuple(row[name] for name in names) for row in trainer.train_dataset]


if __name__ == "__main__":
    print(json.dumps(measure(TextWork.read(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])))
