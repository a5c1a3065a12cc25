"""Attention for rows without padding, and for short ones on a processor.

Everything in a transformer but attention looks at one token at a time. So rows of different lengths go through it one
behind the other, and only here they stand side by side for a moment: a batch of texts of 60 to 170 tokens has a quarter
less to compute. `packs` tries on a loaded model whether that gives what each row gives alone.

On a processor torch's own kernel is slow in bf16 when sequences are short: 96 tokens of sixteen rows take it 21 ms,
forward and backward, and 12 ms as plain matrix products; a single new token of sixteen rows 0.5 and 0.15 ms. From about
250 tokens on torch's kernel wins, and it is what runs then, as on every card. As there, the backward pass keeps no
probabilities: it computes them again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

NAME = "without_padding"
SHORT = 200
"""Keys up to which products are faster than torch's kernel when several tokens ask."""


@dataclass(frozen=True)
class PackedRows:
    """Where the tokens of rows that stand one behind the other belong when they stand side by side.

    Rows with the same prompt share its tokens: causal attention makes of them the same in every row, so that they go
    through the transformer once, and the gradients of all rows meet in them.
    """

    token_BL: Tensor
    """Index of each token in the pack; 0 where a row has ended."""
    place_T: Tensor
    """Index of each token of the pack in `token_BL`, flattened; of a shared one in the first of its rows."""
    again_S: Tensor
    """Index in `token_BL`, flattened, of shared tokens in the other rows."""
    windows: set[int | None] = field(default_factory=set)
    """How far back layers asked to look, so far."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device, shared: Sequence[tuple[int, int]] = ()) -> PackedRows:
        """Describe rows of these lengths, which begin with so many tokens of earlier ones."""
        length_B = torch.tensor(lengths)
        own_BL = torch.arange(int(length_B.max())) < length_B[:, None]
        again_BL = torch.zeros_like(own_BL)
        for row, (_, tokens) in enumerate(shared):
            again_BL[row, :tokens] = True
        own_BL &= ~again_BL
        token_BL = torch.zeros_like(own_BL, dtype=torch.long)
        token_BL[own_BL] = torch.arange(int(own_BL.sum()))
        for row, (first, tokens) in enumerate(shared):
            token_BL[row, :tokens] = token_BL[first, :tokens]
        place_T, again_S = (mask_BL.flatten().nonzero().squeeze(-1) for mask_BL in (own_BL, again_BL))
        return cls(token_BL.to(device), place_T.to(device), again_S.to(device))

    @property
    def positions_T(self) -> Tensor:  # noqa: N802
        """Count the tokens of each row from 0."""
        return self.place_T % self.token_BL.shape[1]

    def side_by_side(self, pack_TX: Tensor) -> Tensor:
        """Put the tokens of a pack [T, …] into rows → [B, L, …]; what stands behind a row's end means nothing."""
        rows, length = self.token_BL.shape
        if rows * length == len(pack_TX):
            return pack_TX.view(rows, length, *pack_TX.shape[1:])
        found: Tensor = _Pick.apply(pack_TX, self.token_BL.flatten(), self.place_T, self.again_S)  # type: ignore[no-untyped-call]
        return found.view(rows, length, *pack_TX.shape[1:])

    def behind_each_other(self, rows_BLX: Tensor) -> Tensor:
        """Put rows [B, L, …] back into a pack → [T, …]."""
        flat = rows_BLX.reshape(-1, *rows_BLX.shape[2:])
        return flat if len(flat) == len(self.place_T) else flat[self.place_T]


class _Pick(torch.autograd.Function):
    """Pick tokens by index. Each stands in one place, which `back` names, shared ones also in those of `again`."""

    @staticmethod
    def forward(ctx: Any, pack_TX: Tensor, index: Tensor, back: Tensor, again: Tensor) -> Tensor:
        ctx.save_for_backward(index, back, again)
        return pack_TX[index]

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, by_picked: Tensor) -> tuple[Tensor | None, ...]:
        index, back, again = ctx.saved_tensors
        by_pack = by_picked[back]
        if len(again):
            by_pack.index_add_(0, index[again], by_picked[again])
        return by_pack, None, None, None


def packed_states(backbone: nn.Module, ids_T: Tensor, rows: PackedRows) -> Tensor:
    """Run a transformer over rows one behind the other → hidden states [T, H]."""
    # Any mask of four dimensions is handed on as it is, instead of one over all pairs of tokens of the pack.
    nothing = torch.zeros(1, 1, 1, 1, device=ids_T.device)
    output = backbone(
        input_ids=ids_T[None],
        position_ids=rows.positions_T[None],
        attention_mask=nothing,
        use_cache=False,
        return_dict=True,
        packed_rows=rows,
    )
    hidden_1TH: Tensor = output.last_hidden_state
    return hidden_1TH[0]


@torch.no_grad()
def packs(model: PreTrainedModel, backbone: nn.Module) -> bool:
    """Try whether rows in one pack get the hidden states that each gets alone.

    A window is wider than the rows of the trial, so that it would not show in the numbers: the layers that have one
    must say so. Other ways to look at a part of a row are not known here.
    """
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or [])
    other = kinds - {"full_attention", "sliding_attention"} or getattr(config, "attention_chunk_size", None)
    if model.config._attn_implementation != NAME or other:
        return False
    window = getattr(config, "sliding_window", None)
    if kinds and "sliding_attention" not in kinds:
        window = None
    rows = [[3, 1, 2, 4, 1], [2, 0, 1]]
    alone = [backbone(input_ids=torch.tensor([row], device=model.device), use_cache=False)[0][0] for row in rows]
    try:
        places = PackedRows.of([len(row) for row in rows], model.device)
        together_TH = packed_states(backbone, torch.tensor([*rows[0], *rows[1]], device=model.device), places)
    except (TypeError, RuntimeError, ValueError, IndexError, AttributeError):
        return False  # an architecture that does not hand arguments on to its attention
    if window and window not in places.windows:
        return False
    wanted_TH = torch.cat(alone).float()
    return torch.allclose(together_TH.float(), wanted_TH, rtol=0.03, atol=0.03 * float(wanted_TH.abs().max()))


def use_own_attention(model: PreTrainedModel) -> None:
    """Let a model that would use torch's attention use this module's."""
    if model.config._attn_implementation == "sdpa":
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
    packed_rows: PackedRows | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend as transformers' functions do: H heads that ask, in groups that share one of G keys → [B, Q, H, D]."""
    if packed_rows is not None:
        query_BHQD, key_BGKD, value_BGKD = (
            packed_rows.side_by_side(pack[0].transpose(0, 1)).transpose(1, 2)
            for pack in (query_BHQD, key_BGKD, value_BGKD)
        )
        width = kwargs.get("sliding_window")
        packed_rows.windows.add(width)
        mask = _window(width, packed_rows.token_BL)
        found, _ = attention(
            module, query_BHQD, key_BGKD, value_BGKD, mask, dropout, scaling, is_causal, None, **kwargs
        )
        return packed_rows.behind_each_other(found)[None], None
    asking, keys, depth = query_BHQD.shape[2], key_BGKD.shape[2], query_BHQD.shape[3]
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    decoding = asking == 1 and not torch.is_grad_enabled()
    short = asking == keys <= SHORT and query_BHQD.dtype == torch.bfloat16
    here = query_BHQD.device.type == "cpu"
    known = dropout == 0 and all(kwargs.get(name) is None for name in UNKNOWN)
    known = known and (attention_mask is None or attention_mask.dtype == torch.bool)
    if not here or not known or not (decoding or short) or not (causal or attention_mask is not None):
        return sdpa_attention_forward(
            module, query_BHQD, key_BGKD, value_BGKD, attention_mask, dropout, scaling, is_causal, **kwargs
        )
    blocked = None if attention_mask is None else ~attention_mask
    if blocked is None and asking > 1:
        blocked = torch.ones(asking, keys, dtype=torch.bool).triu(1)[None, None]
    scaling = depth**-0.5 if scaling is None else scaling
    found_BHQD: Tensor = _ShortAttention.apply(query_BHQD, key_BGKD, value_BGKD, blocked, scaling)  # type: ignore[no-untyped-call]
    return found_BHQD.transpose(1, 2), None


def _window(width: int | None, token_BL: Tensor) -> Tensor | None:
    """Let tokens look at the last `width` only, themselves included, where rows are longer than that."""
    length = token_BL.shape[1]
    if not width or length <= width:
        return None
    place = torch.arange(length, device=token_BL.device)
    before = place[:, None] - place
    return ((before >= 0) & (before < width))[None, None]


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
    scores = scores.softmax(-1)  # lets go of what it was made of
    return scores.to(grouped.dtype)
