"""One adapted linear layer as one step of autograd: y = x Wᵀ + b + s · (x Aᵀ) Bᵀ, with W frozen (arXiv 2106.09685).

PEFT's own forward computes the same in eight steps, and in bf16 keeps an fp32 copy of the input for every adapted
layer. Here the backward pass keeps the input once, shared by all layers that read it, and x Aᵀ, `rank` numbers wide;
W is unpacked again where it is needed. Adapters stay fp32 and enter the products in the format of the computation,
as under autocast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D


def fuse(layer: LoraLayer) -> None:
    """Let a layer of PEFT's compute in one step; `type(layer).forward` stays its plain twin."""
    base = layer.get_base_layer()
    if _weight_of(base) is not None:
        layer.forward = partial(_forward, layer, base)  # type: ignore[attr-defined]


@contextmanager
def merged(layers: Sequence[LoraLayer], name: str | None) -> Iterator[None]:
    """Let 4-bit layers hold W + s · B A, unpacked, while a block runs many small passes without gradient.

    In bf16 the sum is rounded once more than the separate products: draws are those of a policy a rounding away, which
    is why PPO asks the training pass for their log-probabilities.
    """
    chosen: list[Any] = [layer for layer in layers if _is_4bit(layer.get_base_layer()) and _is_plain(layer, name)]
    try:
        for layer in chosen:
            layer.merged_OI = _merged(layer, name)
        yield
    finally:
        for layer in chosen:
            layer.merged_OI = None


@torch.no_grad()
def _merged(layer: Any, name: str | None) -> Tensor:
    weight_OI = _unpacked(layer.get_base_layer())
    if name not in layer.lora_A:
        return weight_OI
    sum_OI = weight_OI.to(torch.float32, copy=True)
    sum_OI.addmm_(layer.lora_B[name].weight, layer.lora_A[name].weight, alpha=layer.scaling[name])
    return sum_OI.to(weight_OI.dtype)


def _forward(layer: Any, base: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    merged_OI = layer.__dict__.get("merged_OI")
    if merged_OI is not None and not torch.is_grad_enabled():
        return nn.functional.linear(x, merged_OI, base.bias)
    (name,) = layer._active_adapter or (None,)
    if not _is_plain(layer, name):
        return type(layer).forward(layer, x, *args, **kwargs)  # type: ignore[no-any-return]
    if name not in layer.lora_A:
        return base(x, *args, **kwargs)  # type: ignore[no-any-return]
    a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
    return _LoraLinear.apply(x, a, b, layer.scaling[name], base)  # type: ignore[no-any-return, no-untyped-call]


def _is_plain(layer: Any, name: str | None) -> bool:
    """Tell whether an adapter is LoRA as in the paper: no variant of it, no bias of its own."""
    return name not in layer.lora_variant and not layer.lora_bias.get(name)


def _weight_of(layer: nn.Module) -> Callable[[], Tensor] | None:
    """Return what gives the dense weight [out, in] of a frozen layer; None where there is no simple one."""
    if _is_4bit(layer):
        return partial(_unpacked, layer)
    if isinstance(layer, Conv1D):
        return lambda: layer.weight.t()
    if type(layer) is nn.Linear:
        return lambda: layer.weight
    return None


def _is_4bit(layer: nn.Module) -> bool:
    return type(layer).__name__ == "Linear4bit"


def _unpacked(layer: Any) -> Tensor:
    from bitsandbytes.functional import dequantize_4bit

    return dequantize_4bit(layer.weight.data, layer.weight.quant_state)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, a_RI: Tensor, b_OR: Tensor, scale: float, base: nn.Module) -> Tensor:
        y = base(x)
        x_TI = x.reshape(-1, x.shape[-1])
        inner_TR = x_TI @ a_RI.to(x.dtype).t()
        y.view(-1, y.shape[-1]).addmm_(inner_TR, b_OR.to(x.dtype).t(), alpha=scale)
        ctx.save_for_backward(x_TI, inner_TR, a_RI, b_OR)
        ctx.scale, ctx.base, ctx.shape = scale, base, x.shape
        return y  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, by_y: Tensor) -> tuple[Tensor | None, ...]:
        x_TI, inner_TR, a_RI, b_OR = ctx.saved_tensors
        by_y_TO = by_y.reshape(-1, by_y.shape[-1])
        by_inner_TR = (by_y_TO @ b_OR.to(by_y.dtype)).mul_(ctx.scale)
        by_x = None
        if ctx.needs_input_grad[0]:
            weight_of = _weight_of(ctx.base)
            assert weight_of is not None
            by_x = by_y_TO @ weight_of().to(by_y.dtype)
            by_x = by_x.addmm_(by_inner_TR, a_RI.to(by_y.dtype)).view(ctx.shape)
        by_a = (by_inner_TR.t() @ x_TI).to(a_RI.dtype) if ctx.needs_input_grad[1] else None
        by_b = (inner_TR.t() @ by_y_TO).t().to(b_OR.dtype).mul_(ctx.scale) if ctx.needs_input_grad[2] else None
        return by_x, by_a, by_b, None, None
