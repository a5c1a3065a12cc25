"""Draw completions from the base with whatever adapter is active.

Prompts stand left-padded in one batch; a row leaves the batch, and its cache, as soon as it has ended. Each row
draws from its own stream of uniform numbers, so that an answer depends on its prompt, its number and the seed,
not on which rows happen to share its batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lorarlhf.base import Base
from lorarlhf.cache import roomy_cache
from lorarlhf.data.chat import clean, encode_prompt, encode_response, stop_texts
from lorarlhf.data.tokens import Row
from lorarlhf.forward import context_of
from lorarlhf.settings import SamplingSettings
from lorarlhf.types import Prompt


class Completion(NamedTuple):
    """One drawn answer."""

    tokens: list[int]
    """As drawn, end mark included where there is one."""
    text: str
    ended: bool
    """True when the model ended it, by its end mark or a stop text; False when it ran out of room."""


OnStep = Callable[[dict[int, int]], None]
"""Told after each step the token every living row got, by row number; may raise to stop."""


@torch.no_grad()
def complete(
    base: Base,
    prompts: Sequence[list[int]],
    settings: SamplingSettings,
    *,
    streams: Sequence[int] | None = None,
    on_step: OnStep | None = None,
) -> list[Completion]:
    """Draw one completion per row of token ids, `batch_rows` side by side.

    `streams` numbers the random stream of each row (default: its position); equal prompts with equal streams and
    seed give equal answers.
    """
    streams = range(len(prompts)) if streams is None else streams
    # The empty text is in every text.
    stops = tuple(stop for stop in stop_texts(base.tokenizer, settings.stop) if stop)
    # Rows of similar length share a batch: less padding in the cache.
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    done: dict[int, Completion] = {}
    for start in range(0, len(order), settings.batch_rows):
        rows = order[start : start + settings.batch_rows]
        uniforms_BR = _uniforms([streams[i] for i in rows], settings)
        batch = _Decoder(base, [prompts[i] for i in rows], uniforms_BR, settings, stops)
        for tokens in batch.run():
            if on_step:
                on_step({rows[b]: token for b, token in tokens.items()})
        done |= {rows[b]: completion for b, completion in batch.finished.items()}
    return [done[i] for i in range(len(prompts))]


def generate(
    base: Base,
    prompts: Sequence[Prompt],
    n: int,
    settings: SamplingSettings,
    *,
    max_prompt_tokens: int | None = None,
    on_step: OnStep | None = None,
) -> list[list[Completion]]:
    """Draw `n` completions for each prompt; row `i * n + k` is the k-th of prompt i.

    Prompts lose their start where they would leave no room for the answer within the base's context.
    """
    room = max(1, context_of(base) - settings.max_new_tokens)
    room = room if max_prompt_tokens is None else min(room, max_prompt_tokens)
    encoded = [encode_prompt(base.tokenizer, prompt, room) for prompt in prompts]
    flat = complete(base, [ids for ids in encoded for _ in range(n)], settings, on_step=on_step)
    return [flat[i * n : (i + 1) * n] for i in range(len(prompts))]


def scored_row(base: Base, prompt: list[int], tokens: list[int], stop: Sequence[str] = ()) -> Row:
    """Return the row by which a reward model scores sampled `tokens`: it ends as the rows it was trained on.

    Those end with the base's own end mark and nothing behind it. An answer that a stop text, another end mark or the
    length limit ended is written anew from its text; the reward model has never seen any of these endings.
    """
    if tokens and tokens[-1] == base.eos_id:
        return Row(prompt, tokens)
    decoded = base.tokenizer.decode(tokens, skip_special_tokens=True)
    text = clean(str(decoded), stop_texts(base.tokenizer, stop))
    room = max(1, context_of(base) - len(prompt))
    return Row(prompt, [*encode_response(base.tokenizer, text, base.eos_id, end=False)[: room - 1], base.eos_id])


@lru_cache(maxsize=8)
def cache_argument(backbone: nn.Module) -> str:
    """Name the argument that takes the cache: transformers 5.20 and later warn about the older name."""
    return "cache" if "cache" in inspect.signature(backbone.forward).parameters else "past_key_values"


def _uniforms(streams: Sequence[int], settings: SamplingSettings) -> Tensor:
    """Return uniform numbers in [0, 1), [rows, max_new_tokens]; a counter-based generator per row."""
    draws = [
        np.random.Generator(np.random.Philox(key=[settings.seed, stream])).random(settings.max_new_tokens)
        for stream in streams
    ]
    return torch.from_numpy(np.stack(draws))


def choose(logits_BV: Tensor, uniforms_B: Tensor, temperature: float, top_p: float) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution at `uniforms_B` → [B].

    Temperature 0 takes the likeliest. With top_p < 1 only the smallest set of likeliest tokens whose probability
    reaches top_p can be drawn (Holtzman et al. 2020).
    """
    if temperature == 0:
        return logits_BV.argmax(-1)
    probs_BV = torch.softmax(logits_BV.float() / temperature, dim=-1)
    if top_p < 1:
        probs_BV, tokens_BV = probs_BV.sort(dim=-1, descending=True, stable=True)
        before_BV = probs_BV.cumsum(-1) - probs_BV
        probs_BV = probs_BV.masked_fill(before_BV >= top_p, 0.0)
    cumulative_BV = probs_BV.to(_wide(probs_BV.device)).cumsum(-1)
    total_B1 = cumulative_BV[:, -1:]
    # Scaling by the total keeps the last token reachable; staying below it, rounding never draws past that token.
    below_B1 = torch.nextafter(total_B1, torch.zeros_like(total_B1))
    thresholds_B1 = torch.minimum(uniforms_B.to(cumulative_BV)[:, None] * total_B1, below_B1)
    drawn_B1 = torch.searchsorted(cumulative_BV, thresholds_B1, right=True).clamp_max(probs_BV.shape[-1] - 1)  # NaN
    return (tokens_BV.gather(-1, drawn_B1) if top_p < 1 else drawn_B1).squeeze(-1)


def _wide(device: torch.device) -> torch.dtype:
    """Return the widest floating-point format of the device: Apple's has no fp64."""
    return torch.float32 if device.type == "mps" else torch.float64


class _Decoder:
    """One left-padded batch on its way, its cache, and the rows still alive."""

    def __init__(
        self,
        base: Base,
        prompts: list[list[int]],
        uniforms_BR: Tensor,
        settings: SamplingSettings,
        stops: tuple[str, ...],
    ) -> None:
        self.base, self.settings, self.stops = base, settings, stops
        # A few more than the longest stop text has bytes: special tokens write nothing, and a first blank may vanish.
        self.tail = 8 + max((len(stop.encode()) for stop in stops), default=0)
        self.uniforms_BR = uniforms_BR.to(_wide(base.device)).to(base.device)
        # A prompt with several answers is read once.
        place: dict[tuple[int, ...], int] = {}
        self.reads = [place.setdefault(tuple(ids), len(place)) for ids in prompts]
        width = max(len(ids) for ids in place)
        padded = [[base.pad_id] * (width - len(ids)) + list(ids) for ids in place]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in place]
        self.ids_BL = torch.tensor(padded, device=base.device)
        self.mask_BL = torch.tensor(mask, device=base.device)
        self.positions_BL = (self.mask_BL.cumsum(-1) - 1).clamp_min(0)
        self.cache = roomy_cache(base.model.config.get_text_config())
        self.alive = list(range(len(prompts)))
        # Learned positions end with the context.
        self.room = [context_of(base) - len(ids) for ids in prompts]
        self.drawn: list[list[int]] = [[] for _ in prompts]
        self.finished: dict[int, Completion] = {}

    def run(self) -> Iterator[dict[int, int]]:
        """Decode until every row has ended; yield the tokens of each step by row."""
        for step in range(self.settings.max_new_tokens):
            logits_BV = self._forward()
            if len(logits_BV) < len(self.alive):
                logits_BV = logits_BV[self._pick(self.reads)]
            chosen_B = choose(logits_BV, self.uniforms_BR[:, step], self.settings.temperature, self.settings.top_p)
            tokens = dict(zip(self.alive, chosen_B.tolist(), strict=True))
            for row, token in tokens.items():
                self.drawn[row].append(token)
            yield tokens
            kept = [k for k, row in enumerate(self.alive) if not self._ended(row)]
            if not kept:
                return
            self._advance(chosen_B, kept)
        for row in self.alive:
            self.finished[row] = self._completion(row, ended=False)

    def _forward(self) -> Tensor:
        output = self.base.backbone(
            input_ids=self.ids_BL,
            attention_mask=self.mask_BL,
            position_ids=self.positions_BL,
            use_cache=True,
            return_dict=True,
            **{cache_argument(self.base.backbone): self.cache},
        )
        return self.base.logits_of(output.last_hidden_state[:, -1])

    def _advance(self, chosen_B: Tensor, kept: list[int]) -> None:
        """Feed the chosen tokens next, and let ended rows go."""
        if len(kept) < len(self.alive):
            kept_B = self._pick(kept)
            chosen_B, self.uniforms_BR = chosen_B[kept_B], self.uniforms_BR[kept_B]
            self.alive = [self.alive[k] for k in kept]
        self.ids_BL = chosen_B[:, None]
        self.mask_BL = torch.cat([self.mask_BL, torch.ones_like(self.ids_BL)], dim=-1)
        self.positions_BL = self.positions_BL[:, -1:] + 1

    def _pick(self, rows: list[int]) -> Tensor:
        """Make these rows of the cache the batch → their indices as a tensor."""
        rows_B = torch.tensor(rows, device=self.base.device)
        self.cache.batch_select_indices(rows_B)
        self.mask_BL, self.positions_BL = self.mask_BL[rows_B], self.positions_BL[rows_B]
        return rows_B

    def _ended(self, row: int) -> bool:
        stopped = self.drawn[row][-1] in self.base.eos_ids
        if not stopped and self.stops:
            # A stop text that this token completes lies within the newest tokens: each writes a byte at least.
            text = self.base.tokenizer.decode(self.drawn[row][-self.tail :], skip_special_tokens=True)
            stopped = any(stop in text for stop in self.stops)
        full = len(self.drawn[row]) >= self.room[row]
        if stopped or full:
            self.finished[row] = self._completion(row, ended=stopped)
        return stopped or full

    def _completion(self, row: int, *, ended: bool) -> Completion:
        text = self.base.tokenizer.decode(self.drawn[row], skip_special_tokens=True)
        return Completion(self.drawn[row], clean(str(text), self.stops), ended)
