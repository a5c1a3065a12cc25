"""The other side: PPO of trl 1.12.0, the last release that has it. Run by `benchmarks.ppo_vs_trl`.

Policy with a LoRA, separate value and reward models, all NF4 from the same folder, value with a LoRA; the reference is
the policy with its LoRA off.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.peers.workloads import BATCH, EPOCHS, LEARNING_RATE, RANK, Meter, Work
from lorarlhf.hardware import pick_dtype


class Steps(TrainerCallback):
    """Tells the meter when a step ends."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """The first step begins."""
        self.meter.start()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """A step ends."""
        self.meter.step()


def main(work: Work, steps: int, micro_batch: int) -> None:
    """Make PPO steps and print what they took."""
    meter = Meter()
    dtype = pick_dtype("auto", torch.device("cpu"))[0]
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # The head of a classifier is trained: it stays as it is.
        llm_int8_skip_modules=["score", "lm_head"],
    )
    options: dict[str, Any] = {"quantization_config": quantised, "dtype": dtype, "device_map": {"": "cpu"}}
    tokenizer = AutoTokenizer.from_pretrained(work.base, padding_side="left")
    policy = AutoModelForCausalLM.from_pretrained(work.base, **options)
    reward = AutoModelForSequenceClassification.from_pretrained(work.base, num_labels=1, **options)
    value = AutoModelForSequenceClassification.from_pretrained(work.base, num_labels=1, **options)
    lora: dict[str, Any] = {"r": RANK, "lora_alpha": 2 * RANK, "target_modules": "all-linear", "lora_dropout": 0.0}
    value = get_peft_model(value, LoraConfig(task_type="SEQ_CLS", **lora))
    tokens = 0
    generate = ppo_trainer.batch_generation

    def timed_generation(*args: Any, **kwargs: Any) -> Any:
        nonlocal tokens
        with meter.phase("sampling"):
            found = generate(*args, **kwargs)
        answers = found[0][:, -found[1].shape[1] :]
        ended = (answers == tokenizer.eos_token_id).cumsum(1).clamp_max(1) if work.ends else torch.zeros_like(answers)
        tokens += int((1 - ended).sum()) + int(ended.any(1).sum())
        return found

    ppo_trainer.batch_generation = timed_generation
    with tempfile.TemporaryDirectory() as folder:
        config = PPOConfig(
            output_dir=folder,
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
            learning_rate=LEARNING_RATE,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            logging_steps=10_000,
        )
        rows = Dataset.from_dict({"input_ids": work.prompts})
        trainer = PPOTrainer(
            args=config,
            processing_class=tokenizer,
            model=policy,
            ref_model=None,
            reward_model=reward,
            value_model=value,
            train_dataset=rows,
            eval_dataset=rows.select(range(BATCH)),
            peft_config=LoraConfig(task_type="CAUSAL_LM", **lora),
            callbacks=[Steps(meter)],
        )
        for model in (trainer.model, trainer.reward_model):
            _keep_gradients(model)
        trainer.accelerator.accumulate = _timed(meter, "training", trainer.accelerator.accumulate)
        trainer.train()
    print(json.dumps(meter.report(tokens_per_answer=tokens / steps / BATCH, threads=torch.get_num_threads())))


def _timed(meter: Meter, name: str, context: Any) -> Any:
    @contextmanager
    def timed(*args: Any, **kwargs: Any) -> Any:
        with meter.phase(name), context(*args, **kwargs):
            yield

    return timed


def _keep_gradients(model: torch.nn.Module) -> None:
    """Do as `lorarlhf.base` does: weights repacked for some processors give no gradient to the LoRA below them."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


if __name__ == "__main__":
    main(Work.read(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
