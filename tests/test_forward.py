"""The forward pass of the base against transformers' full logits, and padded batches against single rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from lorarlhf.base import load_base
from lorarlhf.data.cutting import Budget
from lorarlhf.data.tokens import Row, collate
from lorarlhf.forward import (
    batches,
    hidden_states,
    map_sequences,
    map_tokens,
    read_head,
    response_logprobs,
    response_values,
    sequence_scores,
)
from lorarlhf.settings import LoadSettings
from tests import tiny


def rows() -> list[Row]:
    generator = torch.Generator().manual_seed(2)
    sizes = [(3, 9), (40, 4), (1, 1), (12, 30), (7, 2)]  # 44 tokens: longer than Gemma's window of 32
    draw = [torch.randint(0, 256, (p + r,), generator=generator).tolist() for p, r in sizes]
    return [Row(ids[:p], ids[p:]) for ids, (p, _) in zip(draw, sizes, strict=True)]


@pytest.fixture(scope="module", params=[(a, b) for a in tiny.ARCHS for b in (4, 16)], ids=lambda p: f"{p[0]}-{p[1]}bit")
def base(request, tmp_path_factory):
    arch, bits = request.param
    folder = tiny.save(tmp_path_factory.mktemp("bases") / arch, arch)
    return load_base(LoadSettings(base=str(folder), bits=bits, compute="fp32", device="cpu"))


@pytest.fixture
def head(base):
    torch.manual_seed(0)
    return nn.Linear(base.hidden_size, 1)


def full_logprobs(base, row: Row, temperature: float) -> torch.Tensor:
    ids = torch.tensor([row.prompt + row.response])
    log_p = torch.log_softmax(base.model(input_ids=ids, use_cache=False).logits[0].float() / temperature, -1)
    start = len(row.prompt)
    return torch.stack([log_p[t - 1, ids[0, t]] for t in range(start, row.length)])


@torch.no_grad()
def test_logprobs_of_a_padded_batch_are_those_of_full_logits_row_by_row(base):
    batch = collate(rows(), base.pad_id)
    for temperature in (1.0, 0.6):
        found = response_logprobs(base, batch, temperature).logprobs_T
        expected = torch.cat([full_logprobs(base, row, temperature) for row in rows()])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    (single,) = [r for r in rows() if len(r.response) == 9]
    alone = response_logprobs(base, collate([single], base.pad_id)).logprobs_T
    torch.testing.assert_close(alone, full_logprobs(base, single, 1.0), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_scores_and_values_are_read_at_the_right_positions(base, head):
    batch = collate(rows(), base.pad_id)
    scores, values = sequence_scores(base, head, batch), response_values(base, head, batch)
    hidden = [
        base.model(
            input_ids=torch.tensor([row.prompt + row.response]), output_hidden_states=True, use_cache=False
        ).hidden_states[-1][0]
        for row in rows()
    ]
    torch.testing.assert_close(scores, torch.stack([head(h[-1]).squeeze() for h in hidden]), rtol=1e-4, atol=1e-4)
    # The value of the state a token was chosen in: one position before the token.
    states = [h[len(row.prompt) - 1 : -1] for h, row in zip(hidden, rows(), strict=True)]
    torch.testing.assert_close(values, head(torch.cat(states)).squeeze(-1), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_the_padding_holds_does_not_matter(base, head):
    batch = collate(rows(), base.pad_id)
    other = batch._replace(ids_BL=batch.ids_BL.where(batch.attention_mask_BL, 77))
    torch.testing.assert_close(sequence_scores(base, head, batch), sequence_scores(base, head, other))


@pytest.mark.parametrize("budget", [16, 60, 10_000])
def test_micro_batches_keep_the_order_of_the_rows(base, head, budget):
    found = map_sequences(base, rows(), Budget(budget), lambda batch: sequence_scores(base, head, batch))
    tokens = map_tokens(base, rows(), Budget(budget), lambda batch: response_logprobs(base, batch).logprobs_T)
    assert not found.requires_grad
    assert [len(part) for part in tokens] == [len(row.response) for row in rows()]
    with torch.no_grad():
        for row, score, part in zip(rows(), found, tokens, strict=True):
            batch = collate([row], base.pad_id)
            torch.testing.assert_close(score, sequence_scores(base, head, batch)[0], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(part, response_logprobs(base, batch).logprobs_T, rtol=1e-4, atol=1e-4)
    groups = [group for group, _ in batches(base, rows(), Budget(budget))]
    assert sorted(i for group in groups for i in group) == [0, 1, 2, 3, 4]
    assert (len(groups) == 1) == (budget == 10_000)


@pytest.mark.parametrize("packs", [True, False])
def test_a_prompt_is_counted_once_only_where_it_is_computed_once(base, packs):
    answers = [Row([5] * 50, [6, 7, i]) for i in range(8)]
    groups = [group for group, _ in batches(replace(base, packs=packs), answers, Budget(110))]
    # 50 + 8 · 3 tokens in one pass, or two rows of 53 in each.
    assert [len(group) for group in groups] == ([8] if packs else [2, 2, 2, 2])


def test_no_rows_give_no_numbers(base, head):
    assert map_sequences(base, [], Budget(100), lambda batch: sequence_scores(base, head, batch)).shape == (0,)
    assert map_tokens(base, [], Budget(100), lambda batch: response_logprobs(base, batch).logprobs_T) == []


def test_hidden_states_of_half_precision_meet_an_fp32_head(base, head):
    low = hidden_states(base, collate(rows()[:1], base.pad_id)).bfloat16()
    assert read_head(head, low[0]).dtype == torch.float32
