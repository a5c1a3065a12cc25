"""What the sides that run trl 1.12.0 share: models in 4 bits, the LoRA on them, options, and a clock for its steps.

On a processor trl does not start with bf16=True on 4 bits; weights in bf16 with bf16=False are its best.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BitsAndBytesConfig,
    PreTrainedModel,
    TrainerCallback,
)

from benchmarks.peers.workloads import LEARNING_RATE, RANK, Meter
from lorarlhf.hardware import pick_dtype


class Steps(TrainerCallback):
    """Tells the meter when a step ends, and keeps the losses."""

    def __init__(self, meter: Meter) -> None:
        self.meter = meter
        self.losses: list[float] = []

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """The first step begins."""
        self.meter.start()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """A step ends."""
        self.meter.step()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Numbers come."""
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def load_causal(base: str) -> PreTrainedModel:
    """Load a language model in 4 bits."""
    return _ready(AutoModelForCausalLM.from_pretrained(base, **_options()))


def load_scalar(base: str) -> PreTrainedModel:
    """Load the same weights in 4 bits with a scalar head instead of the output layer."""
    return _ready(AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, **_options()))


def _options() -> dict[str, Any]:
    dtype = pick_dtype("auto", torch.device("cpu"))[0]
    quantised = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        # The head of a classifier is trained: it stays as it is.
        llm_int8_skip_modules=["score", "lm_head"],
    )
    return {"quantization_config": quantised, "dtype": dtype, "device_map": {"": "cpu"}}


def _ready(model: PreTrainedModel) -> PreTrainedModel:
    """Do as `lorarlhf.base` does: weights repacked for some processors give no gradient to the LoRA below them.

    Where nothing is trained they would do, but they are for decoding: batches as here go through them more slowly.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def lora(task: str) -> LoraConfig:
    """Describe the LoRA that both sides train; `task` is `CAUSAL_LM` or `SEQ_CLS`."""
    return LoraConfig(
        task_type=task, r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", lora_dropout=0.0, bias="none"
    )


def options(folder: str) -> dict[str, Any]:
    """Return what every trainer is told."""
    return {
        "output_dir": folder,
        "learning_rate": LEARNING_RATE,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
