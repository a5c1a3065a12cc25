"""One forward pass of the base with whatever adapter is active: hidden states, log-probabilities, scores.

Every number that two stages compare comes from these functions, so that it comes from the same kind of pass.
Knows nothing of which adapter is active, nor of gradients being wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from lorarlhf.algo.logprobs import TokenScores, token_scores
from lorarlhf.attention import PackedRows, packed_states
from lorarlhf.base import Base
from lorarlhf.data.cutting import Budget
from lorarlhf.data.tokens import Batch, Row, collate, prompts_of


def context_of(base: Base) -> int:
    """Return the longest sequence the base was made for, in tokens."""
    config = base.model.config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 2**20)


def hidden_states(base: Base, batch: Batch) -> Tensor:
    """Run the transformer without its output layer → [B, L, H]; states of padding mean nothing."""
    if base.packs:
        packed = PackedRows.of((batch.last_B + 1).tolist(), batch.ids_BL.device, batch.shared)
        states_TH = packed_states(base.backbone, packed.rows.pick_up([batch.ids_BL]), packed)
        return packed.rows.lay_out(states_TH)[0]
    output = base.backbone(
        input_ids=batch.ids_BL, attention_mask=batch.attention_mask_BL.long(), use_cache=False, return_dict=True
    )
    hidden_BLH: Tensor = output.last_hidden_state
    return hidden_BLH


def response_logprobs(
    base: Base, batch: Batch, temperature: float = 1.0, *, learn_entropy: bool = False
) -> TokenScores:
    """Score every response token of the batch, row after row → [T]."""
    hidden_TH = hidden_states(base, batch)[batch.predict_BL]
    return token_scores(
        hidden_TH, batch.targets_T, base.logits_of, base.vocabulary, temperature, learn_entropy=learn_entropy
    )


def response_values(base: Base, head: nn.Linear, batch: Batch) -> Tensor:
    """Value every state a response token was chosen in, row after row → [T]."""
    return read_head(head, hidden_states(base, batch)[batch.predict_BL])


def response_states(base: Base, batch: Batch) -> Tensor:
    """Return the hidden states response tokens were chosen in, and that of each row's last token → [T + B, H]."""
    hidden_BLH, wanted_BL = hidden_states(base, batch), batch.predict_BL.clone()
    wanted_BL[torch.arange(len(wanted_BL), device=wanted_BL.device), batch.last_B] = True
    return hidden_BLH[wanted_BL]


def sequence_scores(base: Base, head: nn.Linear, batch: Batch) -> Tensor:
    """Score whole rows at their last real token → [B]."""
    hidden_BLH = hidden_states(base, batch)
    rows_B = torch.arange(hidden_BLH.shape[0], device=hidden_BLH.device)
    return read_head(head, hidden_BLH[rows_B, batch.last_B])


@torch.no_grad()
def last_states(base: Base, rows: Sequence[Row], budget: Budget) -> Tensor:
    """Read the hidden state at the last token of each row, where scores are read → [B, H] on the CPU, in fp32."""
    states_BH = torch.zeros(len(rows), base.hidden_size)
    for group, batch in batches(base, rows, budget):
        hidden_BLH = hidden_states(base, batch)
        rows_B = torch.arange(hidden_BLH.shape[0], device=hidden_BLH.device)
        states_BH[group] = hidden_BLH[rows_B, batch.last_B].float().cpu()
    return states_BH


def read_head(head: nn.Linear, hidden_NH: Tensor) -> Tensor:
    """Apply a scalar head in fp32 → [N]."""
    scores_N1: Tensor = head(hidden_NH.to(head.weight.dtype))
    return scores_N1.squeeze(-1)


def batches(base: Base, rows: Sequence[Row], budget: Budget) -> Iterable[tuple[list[int], Batch]]:
    """Cut rows into collated micro-batches within the budget, with the row indices of each."""
    for group in budget.cut([row.length for row in rows], padded=not base.packs, prompts=prompts_of(rows)):
        yield group, collate([rows[i] for i in group], base.pad_id, base.device)


@torch.no_grad()
def map_sequences(base: Base, rows: Sequence[Row], budget: Budget, score: Callable[[Batch], Tensor]) -> Tensor:
    """Compute one number per row in micro-batches, in the order of `rows` → [B] on the CPU."""
    scores_B = torch.zeros(len(rows))
    for group, batch in batches(base, rows, budget):
        scores_B[group] = score(batch).float().cpu()
    return scores_B


@torch.no_grad()
def map_tokens(
    base: Base, rows: Sequence[Row], budget: Budget, score: Callable[[Batch], Tensor], extra: int = 0
) -> list[Tensor]:
    """Compute something per response token in micro-batches → per row a tensor [R + extra, …] on the CPU."""
    found: list[Tensor] = [torch.zeros(0)] * len(rows)
    for group, batch in batches(base, rows, budget):
        parts = score(batch).cpu().split([len(rows[i].response) + extra for i in group])
        for index, part in zip(group, parts, strict=True):
            found[index] = part
    return found
