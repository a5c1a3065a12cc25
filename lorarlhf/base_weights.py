"""The weights of a base: which are quantised, what they take, and whether anything wrote into them."""

from __future__ import annotations

import hashlib
import re

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from lorarlhf.plan.memory import BLOCK, NF4_BYTES

QUANTISED = ("Linear4bit", "Linear8bitLt")
"""Layers of bitsandbytes, by class name: the package may be missing."""


def base_hash(model: nn.Module) -> str:
    """Hash all frozen weights, quantisation state included; adapters on top of the model change nothing.

    Equal before and after training, or something wrote into the base.
    """
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if "lora_" in name:
            continue
        plain = re.sub(r"^base_model\.model\.|(?:^|\.)base_layer$", "", name)
        for short, weight in module.named_parameters(recurse=False):
            if not weight.requires_grad:
                found[f"{plain}.{short}"] = weight.data
                found |= {f"{plain}.{short}.{k}": v for k, v in _scales(module, weight).items()}
    digest = hashlib.sha256()
    for name, tensor in sorted(found.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
    return digest.hexdigest()


def _scales(module: nn.Module, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Collect the tensors bitsandbytes keeps beside a quantised weight."""
    state = getattr(weight, "quant_state", None)
    if state is not None:
        return dict(state.as_dict(packed=True))
    # int8 scales move from the weight to the module's state at the first forward.
    scales = getattr(weight, "SCB", None)
    scales = getattr(getattr(module, "state", None), "SCB", None) if scales is None else scales
    return {} if scales is None else {"SCB": scales}


def layers_kept_16bit(model: nn.Module, bits: int) -> dict[str, str]:
    """Name the matrices that are not quantised, and why; empty at 16 bits. Works on the meta device."""
    if bits == 16:
        return {}
    kept: dict[str, str] = {}
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and type(module).__name__ not in QUANTISED:
            # Conv1D of GPT-2 stores its weight as (in, out).
            width = module.weight.shape[0] if isinstance(module, Conv1D) else module.in_features
            if module is head:
                kept[name] = "output head: its errors would go straight into the probabilities"
            elif bits == 4 and width % BLOCK:
                kept[name] = f"its {width} inputs are not a multiple of {BLOCK}"
        for short, weight in module.named_parameters(recurse=False):
            if weight.ndim == 3 and not isinstance(module, nn.Conv1d):
                kept[f"{name}.{short}"] = "several matrices in one tensor, which bitsandbytes does not take"
    return kept


def bytes_needed(skeleton: nn.Module, kept: dict[str, str], bits: int, dtype: torch.dtype) -> int:
    """Count the bytes the loaded weights take on the device, from shapes alone."""
    quantised = {
        id(module.weight)
        for name, module in skeleton.named_modules()
        if bits < 16 and isinstance(module, nn.Linear | Conv1D) and name not in kept
    }
    small = NF4_BYTES if bits == 4 else 1.0
    return int(sum(w.numel() * (small if id(w) in quantised else dtype.itemsize) for w in skeleton.parameters()))


def measured_bytes(model: nn.Module) -> int:
    found: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for weight in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            for tensor in (weight.data, *_scales(module, weight).values()):
                found[tensor.data_ptr()] = tensor
    return sum(tensor.nbytes for tensor in found.values())
