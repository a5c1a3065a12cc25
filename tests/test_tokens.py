"""Rows, masks and micro-batches, by hand and by property."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lorarlhf.data.cutting import micro_batches, pass_tokens
from lorarlhf.data.tokens import Row, collate, mask_of, pad_flat, prompts_of

quick = settings(max_examples=150, deadline=None)


def size_of(group, lengths, padded):
    return len(group) * max(lengths[i] for i in group) if padded else sum(lengths[i] for i in group)


@quick
@given(st.lists(st.integers(1, 300), max_size=60), st.integers(1, 400), st.booleans())
def test_every_row_is_in_exactly_one_group_and_groups_stay_within_the_budget(lengths, budget, padded):
    groups = micro_batches(lengths, budget, padded=padded)
    assert sorted(i for group in groups for i in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or size_of(group, lengths, padded) <= budget
    order = [lengths[i] for group in groups for i in group]
    assert order == sorted(order, reverse=True)  # longest first: memory runs out at once or never


@quick
@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(50, 400), st.booleans())
def test_no_group_could_have_taken_the_next_row(lengths, budget, padded):
    groups = micro_batches(lengths, budget, padded=padded)
    for group, following in pairwise(groups):
        assert size_of([*group, following[0]], lengths, padded) > budget


def test_groups_do_not_depend_on_anything_but_lengths():
    assert micro_batches([3, 9, 9, 3, 1], 18) == [[1, 2], [0, 3, 4]]
    assert micro_batches([3, 9, 9, 3, 1], 20) == [[1, 2], [0, 3, 4]]
    assert micro_batches([3, 9, 9, 3, 1], 21) == [[1, 2, 0], [3, 4]]
    assert micro_batches([3, 9, 9, 3, 1], 27, padded=True) == [[1, 2, 0], [3, 4]]
    assert micro_batches([3, 9, 9, 3, 1], 26, padded=True) == [[1, 2], [0, 3, 4]]
    assert micro_batches([], 18) == []
    assert micro_batches([100], 18) == [[0]]


def test_answers_to_one_prompt_stand_together_and_their_prompt_counts_once():
    # Prompts of 6 and 2 tokens, answers of 3, 1, 4 and 2, 5: 6 + 3 + 1 + 4 and 2 + 2 + 5 tokens.
    prompts, lengths = [(0, 6), (1, 2), (0, 6), (1, 2), (0, 6)], [9, 4, 7, 7, 10]
    assert micro_batches(lengths, 23, prompts=prompts) == [[4, 0, 2, 3, 1]]
    # One token less: the last answer needs its prompt again.
    assert micro_batches(lengths, 22, prompts=prompts) == [[4, 0, 2, 3], [1]]
    assert micro_batches(lengths, 13, prompts=prompts) == [[4, 0], [2], [3, 1]]
    # Padded rows share nothing, and neighbours in length are best.
    assert micro_batches(lengths, 20, padded=True, prompts=prompts) == micro_batches(lengths, 20, padded=True)
    assert pass_tokens([4, 0, 2, 3, 1], lengths, prompts=prompts) == 23
    assert pass_tokens([2, 1], lengths, prompts=prompts) == 11


prompt_and_answer = st.tuples(st.integers(0, 4), st.integers(0, 40))


@quick
@given(st.lists(prompt_and_answer, min_size=1, max_size=40), st.integers(1, 200))
def test_groups_of_answers_hold_as_many_tokens_as_they_are_said_to(drawn, budget):
    rows = [Row([prompt] * (3 + 5 * prompt), [7] * answer) for prompt, answer in drawn]
    lengths = [row.length for row in rows]
    groups = micro_batches(lengths, budget, prompts=prompts_of(rows))
    assert sorted(i for group in groups for i in group) == list(range(len(rows)))
    seen = set()
    for group in groups:
        # As many as go through the base: what the batch says earlier rows have computed is left out.
        batch = collate([rows[i] for i in group], pad_id=0)
        computed = int(batch.attention_mask_BL.sum()) - sum(tokens for _, tokens in batch.shared)
        assert computed == pass_tokens(group, lengths, prompts=prompts_of(rows))
        assert len(group) == 1 or computed <= budget
        # No prompt comes back once another has followed it.
        order = [drawn[i][0] for i in group]
        changes = [prompt for at, prompt in enumerate(order) if not at or order[at - 1] != prompt]
        assert len(changes) == len(set(changes))
        assert not seen & set(changes[1:])
        seen |= set(changes)


def test_a_batch_by_hand():
    batch = collate([Row([7, 8, 9], [1, 2]), Row([5], [3, 4, 6, 2]), Row([5, 6], [2])], pad_id=0)
    assert batch.ids_BL.tolist() == [[7, 8, 9, 1, 2], [5, 3, 4, 6, 2], [5, 6, 2, 0, 0]]
    assert batch.attention_mask_BL.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    # The position before a response token predicts it: never the last real one, never an earlier prompt token.
    assert batch.predict_BL.int().tolist() == [[0, 0, 1, 1, 0], [1, 1, 1, 1, 0], [0, 1, 0, 0, 0]]
    assert batch.targets_T.tolist() == [1, 2, 3, 4, 6, 2, 2]
    assert batch.last_B.tolist() == [4, 4, 2]


token = st.integers(0, 99)
row = st.builds(Row, st.lists(token, min_size=1, max_size=8), st.lists(token, max_size=8))


@quick
@given(st.lists(row, min_size=1, max_size=6))
def test_predicted_positions_are_followed_by_their_targets(rows):
    batch = collate(rows, pad_id=0)
    following = batch.ids_BL.roll(-1, dims=1)[batch.predict_BL]
    assert torch.equal(following, batch.targets_T)
    assert batch.attention_mask_BL.sum(1).tolist() == [r.length for r in rows]
    assert batch.predict_BL.sum(1).tolist() == [len(r.response) for r in rows]
    # A pad id among the real tokens (0 here) is still a real token.
    assert batch.ids_BL[batch.attention_mask_BL].tolist() == [t for r in rows for t in r.prompt + r.response]
    assert (batch.last_B == batch.attention_mask_BL.sum(1) - 1).all()


def test_flat_values_are_laid_out_by_row():
    flat = torch.arange(1.0, 7.0)
    assert pad_flat(flat, [2, 1, 3]).tolist() == [[1, 2, 0], [3, 0, 0], [4, 5, 6]]
    assert mask_of([2, 1, 3]).int().tolist() == [[1, 1, 0], [1, 0, 0], [1, 1, 1]]


@quick
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_padding_and_masking_undo_each_other(lengths):
    flat = torch.arange(1.0, sum(lengths) + 1)
    assert torch.equal(pad_flat(flat, lengths)[mask_of(lengths)], flat)
