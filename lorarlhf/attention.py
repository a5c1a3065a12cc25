"""Attention for rows without padding, and for short ones on a processor.

Everything in a transformer but attention looks at one token at a time. So rows of different lengths go through it one
behind the other, with a prompt that several rows begin with once, and only here they stand side by side for a moment:
16 texts of 30 to 200 tokens have a quarter less to compute. `packs` tries on a loaded model whether that gives what
each row gives alone.

On a processor torch's own kernel is slow in bf16 when sequences are short, or when a single new token asks: plain
matrix products take half its time and less (`python -m benchmarks.fast_paths`). From about 250 tokens on torch's kernel
wins, and it is what runs then, as on every card. As there, the backward pass keeps no probabilities: it computes them
again.
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

from lorarlhf.data.cutting import like_lengths

NAME = "without_padding"
SHORT = 200
"""Keys up to which products are faster than torch's kernel when several tokens ask."""


class Spots:
    """Where the tokens of a pack stand when some of its rows, or all, are laid side by side."""

    def __init__(self, groups: Sequence[Sequence[int]], token_BL: Tensor, own_BL: Tensor, again_BL: Tensor) -> None:
        """Lay out groups of rows; `own_BL` marks a row's own tokens, `again_BL` those that an earlier row owns."""
        length_B = (own_BL | again_BL).sum(1)
        parts = [(torch.tensor(group), int(length_B[list(group)].max())) for group in groups]
        self.shapes = [(len(rows), width) for rows, width in parts]
        """Rows and tokens of every group."""
        token_S, own_S, again_S = (
            torch.cat([of_BL[rows, :width].flatten() for rows, width in parts])
            for of_BL in (token_BL, own_BL, again_BL)
        )
        self.token_S = token_S
        """Per spot the index of its token in the pack; 0 where a row has ended."""
        spots = own_S.nonzero().squeeze(-1)
        self.spot_T = torch.empty_like(spots)
        """Per token of the pack the spot in its own row."""
        self.spot_T[token_S[spots]] = spots
        self.again_A = again_S.nonzero().squeeze(-1)
        """Spots of tokens that other rows own."""
        self.same = len(spots) == len(token_S) and bool((spots == self.spot_T).all())

    def to(self, device: torch.device) -> Spots:
        """Move to a device."""
        self.token_S, self.spot_T, self.again_A = (x.to(device) for x in (self.token_S, self.spot_T, self.again_A))
        return self

    def lay_out(self, pack_TX: Tensor) -> list[Tensor]:
        """Put the tokens of a pack [T, …] into groups [B, L, …]; what stands behind a row's end means nothing."""
        found: Tensor = pack_TX
        if not self.same:
            found = _Pick.apply(pack_TX, self.token_S, self.spot_T, self.again_A)  # type: ignore[no-untyped-call]
        parts = found.split([rows * width for rows, width in self.shapes])
        return [part.view(*shape, *part.shape[1:]) for part, shape in zip(parts, self.shapes, strict=True)]

    def pick_up(self, groups: Sequence[Tensor]) -> Tensor:
        """Put groups of rows [B, L, …] back into a pack → [T, …]."""
        flats = [group.reshape(-1, *group.shape[2:]) for group in groups]
        flat = torch.cat(flats) if len(flats) > 1 else flats[0]
        return flat if self.same else flat.index_select(0, self.spot_T)


@dataclass(frozen=True)
class PackedRows:
    """Rows that stand one behind the other.

    Rows with the same prompt share its tokens: causal attention makes of them the same in every row, so that they go
    through the transformer once, and the gradients of all rows meet in them.
    """

    rows: Spots
    """All of them side by side, in their order."""
    alike: Spots
    """As attention sees them: groups of like length, so that little of it goes to padding."""
    position_T: Tensor
    """Per token how many stand before it in its row."""
    windows: set[int | None] = field(default_factory=set)
    """How far back layers asked to look, so far."""

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device, shared: Sequence[tuple[int, int]] = ()) -> PackedRows:
        """Describe rows of these lengths, which begin with so many tokens of earlier ones."""
        place_L = torch.arange(max(lengths))
        again_BL = place_L < torch.tensor([tokens for _, tokens in shared] or [0] * len(lengths))[:, None]
        own_BL = (place_L < torch.tensor(lengths)[:, None]) & ~again_BL
        token_BL = torch.zeros_like(own_BL, dtype=torch.long)
        token_BL[own_BL] = torch.arange(int(own_BL.sum()))
        for row, (first, tokens) in enumerate(shared):
            token_BL[row, :tokens] = token_BL[first, :tokens]
        rows = Spots([range(len(lengths))], token_BL, own_BL, again_BL)
        alike = Spots(like_lengths(lengths), token_BL, own_BL, again_BL)
        return cls(rows.to(device), alike.to(device), place_L.expand_as(own_BL)[own_BL].to(device))


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
        position_ids=rows.position_T[None],
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
    # Groups of one row and of two of other lengths; the last row begins with three tokens of the first.
    rows = [[3, 1, 2, 4, 1], [2, 0, 1], [3, 1, 2, 0]]
    alone = [backbone(input_ids=torch.tensor([row], device=model.device), use_cache=False)[0][0] for row in rows]
    alone[2] = alone[2][3:]
    try:
        places = PackedRows.of([len(row) for row in rows], model.device, ((0, 0), (1, 0), (0, 3)))
        ids = torch.tensor([*rows[0], *rows[1], *rows[2][3:]], device=model.device)
        together_TH = packed_states(backbone, ids, places)
    except (TypeError, RuntimeError, ValueError, IndexError, AttributeError):
        return False  # an architecture that does not hand arguments on to its attention
    if window and window not in places.windows:
        return False
    wanted_TH = torch.cat(alone).float()
    return torch.allclose(together_TH.float(), wanted_TH, rtol=0.03, atol=0.03 * float(wanted_TH.abs().max()))


def use_own_attention(model: PreTrainedModel) -> None:
    """Let a model that would use torch's attention use this module's."""
    # Where torch prefers cuDNN's (H100 and later), that plans every new shape for half a second, and passes are of ever
    # new shapes.
    torch.backends.cuda.enable_cudnn_sdp(False)
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
        width = kwargs.get("sliding_window")
        packed_rows.windows.add(width)
        groups = zip(
            *(packed_rows.alike.lay_out(x[0].transpose(0, 1)) for x in (query_BHQD, key_BGKD, value_BGKD)), strict=True
        )
        found = []
        for group in groups:
            query, key, value = (x.transpose(1, 2) for x in group)
            mask = _window(width, query.shape[2], query.device)
            found.append(attention(module, query, key, value, mask, dropout, scaling, is_causal, None, **kwargs)[0])
        return packed_rows.alike.pick_up(found)[None], None
    asking, keys, depth = query_BHQD.shape[2], key_BGKD.shape[2], query_BHQD.shape[3]
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    decoding = asking == 1 and not torch.is_grad_enabled()
    short = asking == keys <= SHORT and query_BHQD.dtype == torch.bfloat16
    here = query_BHQD.device.type == "cpu"
    known = dropout == 0 and all(kwargs.get(name) is None for name in UNKNOWN)
    known = known and (attention_mask is None or attention_mask.dtype == torch.bool)
    grouped = key_BGKD.shape[1] < query_BHQD.shape[1] and query_BHQD.dtype == torch.float32
    if not here and known and grouped and attention_mask is None:
        return _ungrouped(query_BHQD, key_BGKD, value_BGKD, dropout, scaling, causal and asking > 1), None
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


def _ungrouped(
    query_BHQD: Tensor, key_BGKD: Tensor, value_BGKD: Tensor, dropout: float, scaling: float | None, causal: bool
) -> Tensor:
    """Attend with a key for every head → [B, Q, H, D].

    On cards torch's kernels for fp32 take no groups, and what it does then keeps the probabilities of every layer.
    """
    again = query_BHQD.shape[1] // key_BGKD.shape[1]
    keys, values = (x.repeat_interleave(again, 1) for x in (key_BGKD, value_BGKD))
    found_BHQD = nn.functional.scaled_dot_product_attention(
        query_BHQD, keys, values, dropout_p=dropout, scale=scaling, is_causal=causal
    )
    return found_BHQD.transpose(1, 2).contiguous()


def _window(width: int | None, length: int, device: torch.device) -> Tensor | None:
    """Let tokens look at the last `width` only, themselves included, where rows are longer than that."""
    if not width or length <= width:
        return None
    place = torch.arange(length, device=device)
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
