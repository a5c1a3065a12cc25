"""A base of random weights in 4 bits, made on the device layer by layer: never whole in 16 bits, nothing on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from benchmarks.models import config_of
from lorarlhf import starter
from lorarlhf.attention import packs, use_own_attention
from lorarlhf.base import Base, LoadReport
from lorarlhf.base_weights import QUANTISED, layers_kept_16bit, measured_bytes
from lorarlhf.hardware import pick_dtype
from lorarlhf.output import backbone
from lorarlhf.plan.shapes import Shape
from lorarlhf.settings import LoadSettings

SPREAD = 0.02
"""Standard deviation of all weights: hidden states stay of a size at which no number overflows."""


def make_base(shape: Shape, device: torch.device) -> Base:
    """Build a base as `lorarlhf.base.load_base` would load it; raises torch's error where memory does not do."""
    dtype, why = pick_dtype("auto", device)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config_of(shape), dtype=dtype)
    kept = layers_kept_16bit(model, 4)
    _fill(model, kept, device, dtype)
    model.eval().requires_grad_(False)
    use_own_attention(model)
    tokenizer = AutoTokenizer.from_pretrained(starter.MODEL_DIR)
    report = LoadReport(
        parameters=_count(shape),
        bytes_on_device=measured_bytes(model),
        quantised_layers=sum(type(m).__name__ in QUANTISED for m in model.modules()),
        kept_16bit=kept,
        compute_why=why,
        pad_why="the tokenizer's own",
        seconds=0.0,
    )
    identity: dict[str, Any] = {"name": shape.name, "revision": "", "bits": 4, "fingerprint": shape.name}
    settings = LoadSettings(base=shape.name, bits=4)
    end = int(tokenizer.eos_token_id)
    # Random answers would end at random: all are as long as they may be.
    identity["architecture"] = ""
    together = packs(model, backbone(model))
    return Base(model, tokenizer, settings, Path(), device, dtype, end, frozenset(), identity, report, together)


def _fill(model: PreTrainedModel, kept: dict[str, str], device: torch.device, dtype: torch.dtype) -> None:
    """Put numbers in the place of every tensor on the meta device."""
    words = torch.Generator(device).manual_seed(0)
    head, tied = model.get_output_embeddings(), model.config.tie_word_embeddings
    for name, module in list(model.named_modules()):
        if module is head and tied:
            continue
        if isinstance(module, nn.Linear) and module is not head and name not in kept:
            parent, _, short = name.rpartition(".")
            setattr(model.get_submodule(parent), short, _quantised(module, device, dtype, words))
        elif name.endswith("rotary_emb"):
            # Its frequencies are computed, not learned, and so not random.
            parent, _, short = name.rpartition(".")
            with torch.device(device):
                setattr(model.get_submodule(parent), short, type(module)(config=model.config))
        else:
            for short, weight in list(module.named_parameters(recurse=False)):
                if weight.is_meta:
                    module.register_parameter(short, _random(weight, device, dtype, words))
    if tied:
        head.weight = model.get_input_embeddings().weight
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if tensor.is_meta]
    assert not left, f"these stayed without numbers: {left}"


def _quantised(linear: nn.Linear, device: torch.device, dtype: torch.dtype, words: torch.Generator) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    made = Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    weight = torch.empty(linear.weight.shape, device=device, dtype=dtype).normal_(0.0, SPREAD, generator=words)
    made.weight = Params4bit(weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=made)
    made.weight = made.weight.to(device)  # which packs it
    if linear.bias is not None:
        made.bias = nn.Parameter(torch.zeros(linear.out_features, device=device, dtype=dtype), requires_grad=False)
    # As `lorarlhf.base` does: weights repacked for some processors give no gradient to the LoRA below them.
    made.compute_type_is_set, made.support_avx512bf16_for_cpu = True, False
    return made


def _random(weight: nn.Parameter, device: torch.device, dtype: torch.dtype, words: torch.Generator) -> nn.Parameter:
    made = torch.empty(weight.shape, device=device, dtype=dtype)
    # Norms multiply: they stay near 1.
    made.normal_(1.0 if weight.ndim == 1 else 0.0, SPREAD, generator=words)
    return nn.Parameter(made, requires_grad=False)


def _count(shape: Shape) -> int:
    layers = shape.layers * sum(matrix.inputs * matrix.outputs for matrix in shape.matrices)
    return layers + shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
