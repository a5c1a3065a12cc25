"""Merge an exported adapter into its base in 16 bits: a program of its own, `python merging.py JOB.json`.

The job names `base` and `adapter` folders, whether it is a `reward` model, `dtype`, `trust`, a reward model's
`offset`, the tokens that `ends` an answer, and the folder `out`. Sums are made in fp32 and rounded once.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

SHARD = "4GB"


def main() -> None:
    merge(json.loads(Path(sys.argv[1]).read_text()))


def merge(job: dict[str, Any]) -> None:
    """Write the merged model to the folder `out`, in shards."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kind: Any = AutoModelForSequenceClassification if job["reward"] else AutoModelForCausalLM
    more = {"num_labels": 1} if job["reward"] else {}
    dtype = getattr(torch, job["dtype"])
    base = kind.from_pretrained(
        job["base"], dtype=dtype, device_map="cpu", use_safetensors=True, trust_remote_code=job["trust"], **more
    )
    adapted: Any = PeftModel.from_pretrained(base, job["adapter"])
    layers: list[tuple[str, Any]] = [(n, m) for n, m in adapted.named_modules() if isinstance(m, LoraLayer)]
    embedding = adapted.get_input_embeddings().weight
    for name, layer in layers:
        weight = layer.get_base_layer().weight
        if weight is embedding:
            raise ValueError(f"{name} shares its weights with the base's embeddings, so nothing can be merged into it")
        # PEFT's own merge rounds what it adds before it adds it.
        total = weight.data.float() + layer.get_delta_weight("default").float()
        if not torch.isfinite(total).all():
            raise ValueError(f"{name} would hold numbers that are none")
        weight.data = total.to(dtype)
    merged = adapted.unload().to(dtype)  # a head came in fp32
    if job["offset"] is not None:
        merged.config.score_offset = job["offset"]
    if job.get("ends") and not job["reward"]:
        # All that end an answer here: a base's own list often lacks the mark its chat template writes.
        merged.generation_config.eos_token_id = job["ends"]
    # The folder it was read from is nobody's business.
    merged.config.name_or_path = ""
    merged.save_pretrained(job["out"], max_shard_size=job.get("shard", SHARD))


if __name__ == "__main__":
    main()
