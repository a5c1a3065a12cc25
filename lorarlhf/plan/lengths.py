"""Lengths, in tokens, of what a workspace holds for a stage. Knows nothing of torch; a tokenizer is passed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lorarlhf.data.chat import encode_prompt, encode_response
from lorarlhf.data.cutting import ANCHORS
from lorarlhf.data.pairs import Vote, votes_of
from lorarlhf.data.practice import practice_rows, prompts_in
from lorarlhf.plan.work import Data, Example, Length, assumed
from lorarlhf.settings import OptimSettings, PPOSettings, Settings
from lorarlhf.store import Store
from lorarlhf.types import Prompt, is_heldout

COUNTED = 1000
"""Examples that are tokenised; of more, every so many-th by length."""
LETTERS = 4
"""Letters of a token where there is no tokenizer: English in the vocabularies of today's models has 4 to 5."""
TEMPLATE = 12
"""Tokens a chat template puts around a turn, where there is no tokenizer."""

Count = Callable[[Prompt, str | None, int], Length]
"""(prompt, answer or None, room) → their tokens, cut to the room as the stage cuts them."""


def counter(tokenizer: Any, eos_id: int, context: int) -> Count:
    """Count as the stages encode."""

    def count(prompt: Prompt, answer: str | None, room: int) -> Length:
        room = min(room, context)
        tokens = 0 if answer is None else len(encode_response(tokenizer, answer, eos_id)[: room - 1])
        return Length(len(encode_prompt(tokenizer, prompt, room - tokens)), tokens)

    return count


def by_letters(prompt: Prompt, answer: str | None, room: int) -> Length:
    """Estimate from letters, without a tokenizer."""
    tokens = 0 if answer is None else min(room - 1, 1 + len(answer) // LETTERS)
    asked = sum(TEMPLATE + len(turn["content"]) // LETTERS for turn in prompt)
    return Length(max(1, min(asked, room - tokens)), tokens)


def data_of(store: Store, stage: str, settings: Settings, count: Count) -> Data:
    """Measure what a stage would work on; what is not there yet is assumed, and said."""
    assert isinstance(settings, OptimSettings)
    heldout, room = settings.heldout_share, settings.max_length
    demonstrations = [row.value for row in store.demonstrations()]
    if isinstance(settings, PPOSettings):
        left = max(1, room - settings.max_new_tokens)
        prompts = prompts_in(practice_rows(store, settings.sources))
        data = _measured(prompts, heldout, lambda prompt: (count(prompt, None, left),), lambda prompt: prompt)
        data = replace(data, drawn=_drawn(store, count, settings.max_new_tokens))
    elif stage == "sft":
        data = _measured(demonstrations, heldout, lambda d: (count(d.prompt, d.response, room),), lambda d: d.prompt)
    else:
        votes = votes_of((r.value for r in store.lessons("reward")), (r.value for r in store.rankings()))

        def answers(vote: Vote) -> Example:
            return tuple(count(vote.prompt, text, room) for text in vote.answers)

        data = _measured(votes, heldout, answers, lambda vote: vote.prompt)
        data = replace(data, anchors=min(ANCHORS, len(demonstrations)))
    if data.train:
        return data
    return replace(assumed(stage, settings), drawn=data.drawn)


def _measured(
    rows: Sequence[Any], share: float, lengths: Callable[[Any], Example], prompt_of: Callable[[Any], Prompt]
) -> Data:
    chosen, each = list(rows), 1.0
    if len(rows) > COUNTED:
        # Every so many-th by length, the longest among them: it decides the peak.
        ordered = sorted(rows, key=lambda row: -sum(len(turn["content"]) for turn in prompt_of(row)))
        stride = len(rows) / COUNTED
        chosen = [ordered[int(i * stride)] for i in range(COUNTED)]
        each = stride
    train: list[Example] = []
    heldout: list[Example] = []
    for row in chosen:
        (heldout if is_heldout(prompt_of(row), share) else train).append(lengths(row))
    said = (f"lengths of {COUNTED:,} of {len(rows):,} examples were measured",) if each > 1 else ()
    return Data(tuple(train), tuple(heldout), share=each, said=said)


def _drawn(store: Store, count: Count, most: int) -> tuple[int, ...]:
    """Measure answers that people judged, newest first."""
    answers = [text for row in reversed(store.comparisons()) for text in (row.value.a, row.value.b)]
    answers += [text for row in store.rankings() for text in row.value.completions]
    short: Prompt = ({"role": "user", "content": "?"},)
    return tuple(count(short, text, most + 64).answer for text in answers[: COUNTED // 2])
