"""Attention over short sequences on a processor, where torch's own kernel is slow in bf16.

96 tokens of sixteen rows take torch 21 ms there, forward and backward, and 12 ms as plain matrix products; a single new
token of sixteen rows 0.5 and 0.15 ms. From about 250 tokens on torch's kernel wins, and it is what runs then, as on
every card. As there, the backward pass keeps no probabilities: it computes them again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "short_on_processor"
SHORT = 200
"""Keys up to which products are faster than torch's kernel when several tokens ask."""


def use_short_attention(model: PreTrainedModel) -> None:
    """Let a model on a processor that would use torch's kernel use this module's where that is faster."""
    if model.device.type == "cpu" and model.config._attn_implementation == "sdpa":
        ALL_ATTENTION_FUNCTIONS.register(NAME, attention)
        ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)


def attention(
    module: nn.Module,
    query_BHQD: Tensor,
    key_BGKD: Tensor,
    value_BGKD: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' functions do: H heads that ask, in groups that share one of G keys → [B, Q, H, D]."""
    asking, keys, depth = query_BHQD.shape[2], key_BGKD.shape[2], query_BHQD.shape[3]
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    decoding = asking == 1 and not torch.is_grad_enabled()
    short = asking == keys <= SHORT and query_BHQD.dtype == torch.bfloat16
    known = dropout == 0 and not any(value is not None for name, value in kwargs.items() if name in UNKNOWN)
    if not known or not (decoding or short) or not (causal or attention_mask is not None):
        return sdpa_attention_forward(
            module, query_BHQD, key_BGKD, value_BGKD, attention_mask, dropout, scaling, is_causal, **kwargs
        )
    blocked = None if attention_mask is None else ~attention_mask
    if blocked is None and asking > 1:
        blocked = torch.ones(asking, keys, dtype=torch.bool).triu(1)[None, None]
    scaling = depth**-0.5 if scaling is None else scaling
    found_BHQD: Tensor = _ShortAttention.apply(query_BHQD, key_BGKD, value_BGKD, blocked, scaling)  # type: ignore[no-untyped-call]
    return found_BHQD.transpose(1, 2), None


UNKNOWN = ("softcap", "position_bias", "cache", "s_aux", "sinks")
"""Arguments of some architectures that change what attention is."""


class _ShortAttention(torch.autograd.Function):
    """softmax(s · Q Kᵀ) V by matrix products; heads of a group stand below each other in one product."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None, scaling: float) -> Tensor:
        grouped = _grouped(query, key.shape[1])
        keys, values = (t.reshape(-1, *t.shape[2:]) for t in (key, value))
        found = torch.bmm(_probabilities(grouped, keys, blocked, scaling, query.shape), values)
        ctx.save_for_backward(query, key, value, blocked)
        ctx.scaling = scaling
        return found.view(query.shape)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, by_found: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, blocked = ctx.saved_tensors
        grouped, by_grouped = (_grouped(t, key.shape[1]) for t in (query, by_found))
        keys, values = (t.reshape(-1, *t.shape[2:]) for t in (key, value))
        probs = _probabilities(grouped, keys, blocked, ctx.scaling, query.shape)
        by_value = torch.bmm(probs.transpose(1, 2), by_grouped)
        by_probs = torch.bmm(by_grouped, values.transpose(1, 2))
        by_probs -= torch.linalg.vecdot(by_probs.float(), probs.float())[..., None].to(probs.dtype)
        by_scores = by_probs.mul_(probs).mul_(ctx.scaling)
        by_query = torch.bmm(by_scores, keys)
        by_key = torch.bmm(by_scores.transpose(1, 2), grouped)
        return by_query.view(query.shape), by_key.view(key.shape), by_value.view(value.shape), None, None


def _grouped(query_BHQD: Tensor, groups: int) -> Tensor:
    """Put the heads that share a key below each other → [B·G, (H/G)·Q, D]."""
    rows, _, _, depth = query_BHQD.shape
    return query_BHQD.reshape(rows * groups, -1, depth)


def _probabilities(grouped: Tensor, keys: Tensor, blocked: Tensor | None, scaling: float, shape: torch.Size) -> Tensor:
    scores = torch.bmm(grouped, keys.transpose(1, 2)).float().mul_(scaling)
    if blocked is not None:
        rows, heads, asking, _ = shape
        # Finite: a row of padding that may look at nothing must not become NaN.
        scores.view(rows, heads, asking, -1).masked_fill_(blocked, torch.finfo(torch.float32).min)
    return scores.softmax(-1).to(grouped.dtype)
