"""The other side: PPO of trl 1.12.0, the last release that has it. Run by `benchmarks.ppo_vs_trl`.

Policy with a LoRA, separate value and reward models, all NF4 from the same folder, value with a LoRA; the reference is
the policy with its LoRA off.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import AutoTokenizer
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.peers.trl_models import Steps, load_causal, load_scalar, lora, options
from benchmarks.peers.workloads import BATCH, EPOCHS, Meter, Work


def measure(work: Work, steps: int, micro_batch: int) -> dict[str, Any]:
    """Make PPO steps and say what they took; `micro_batch` are the rows of a backward pass."""
    meter = Meter()
    tokenizer = AutoTokenizer.from_pretrained(work.base, padding_side="left")
    end = tokenizer.eos_token_id if work.ends else None
    with _counted_generation(meter, end) as tokens, tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(work, steps, micro_batch, tokenizer, folder, Steps(meter))
        trainer.accelerator.accumulate = _timed(meter, "training", trainer.accelerator.accumulate)
        trainer.train()
    return meter.report(tokens_per_answer=sum(tokens) / steps / BATCH, threads=torch.get_num_threads())


def make_trainer(work: Work, steps: int, micro_batch: int, tokenizer: Any, folder: str, clock: Steps) -> PPOTrainer:
    """Load the models and make the trainer ready for its first step."""
    config = PPOConfig(
        **options(folder),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=BATCH // micro_batch,
        num_ppo_epochs=EPOCHS,
        num_mini_batches=1,
        total_episodes=BATCH * steps,
        response_length=work.answer,
        stop_token="eos" if work.ends else None,
        temperature=1.0,
        local_rollout_forward_batch_size=BATCH,
        num_sample_generations=0,
        logging_steps=10_000,
    )
    rows = Dataset.from_dict({"input_ids": work.prompts})
    return PPOTrainer(
        args=config,
        processing_class=tokenizer,
        model=load_causal(work.base),
        ref_model=None,
        reward_model=load_scalar(work.base),
        value_model=get_peft_model(load_scalar(work.base), lora("SEQ_CLS")),
        train_dataset=rows,
        eval_dataset=rows.select(range(BATCH)),
        peft_config=lora("CAUSAL_LM"),
        callbacks=[clock],
    )


@contextmanager
def _counted_generation(meter: Meter, end: int | None) -> Any:
    """Time the sampling, and count its tokens up to the end mark → the counts of each step."""
    generate: Callable[..., Any] = ppo_trainer.batch_generation
    counts: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        with meter.phase("sampling"):
            found = generate(*args, **kwargs)
        answers = found[0][:, -found[1].shape[1] :]
        ended = torch.zeros_like(answers) if end is None else (answers == end).cumsum(1).clamp_max(1)
        counts.append(int((1 - ended).sum()) + int(ended.any(1).sum()))
        return found

    ppo_trainer.batch_generation = counted
    try:
        yield counts
    finally:
        ppo_trainer.batch_generation = generate


def _timed(meter: Meter, name: str, context: Any) -> Any:
    @contextmanager
    def timed(*args: Any, **kwargs: Any) -> Any:
        with meter.phase(name), context(*args, **kwargs):
            yield

    return timed


if __name__ == "__main__":
    print(json.dumps(measure(Work.read(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
