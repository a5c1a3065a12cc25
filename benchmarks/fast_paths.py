"""What is each fast path worth? Every one against its plain twin, in turns, on a base of 30M in 4 bits.

    python -m benchmarks.fast_paths [--only TEXT] [--out FILE]

`tests/test_fast_paths.py` compares what both compute; here it is the milliseconds of both, the median of several turns.
With a gradient means forward and backward. Prints one JSON object; nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from benchmarks.peers.workloads import make_base
from benchmarks.record import circumstances, write
from lorarlhf import sampling
from lorarlhf.adapters import AdapterBank
from lorarlhf.algo.logprobs import token_scores
from lorarlhf.attention import attention
from lorarlhf.base import Base, load_base
from lorarlhf.data import cutting
from lorarlhf.data.tokens import Batch, Row, collate
from lorarlhf.forward import batches, hidden_states
from lorarlhf.sampling import complete
from lorarlhf.settings import LoadSettings, LoraSettings, SamplingSettings

TURNS = 9
TOKENS = 2048


class Paths(NamedTuple):
    """One piece of work, both ways."""

    what: str
    fast: Callable[[], object]
    plain: Callable[[], object]


def all_paths(bank: AdapterBank) -> Iterator[Paths]:
    """List them all."""
    base, words = bank.base, torch.Generator().manual_seed(0)
    width, dtype = base.hidden_size, base.compute_dtype

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=words).to(dtype)

    layer: Any = max(bank._layers, key=lambda layer: layer.out_features)
    states_TH = noise(TOKENS, width).requires_grad_()
    yield Paths(
        f"adapted layer, {TOKENS} tokens, with a gradient",
        lambda: layer(states_TH).sum().backward(),
        lambda: type(layer).forward(layer, states_TH).sum().backward(),
    )
    targets_T = torch.randint(0, base.vocabulary, (TOKENS,), generator=words)
    yield Paths(
        f"log-probabilities of {TOKENS} tokens out of {base.vocabulary:,}, with a gradient",
        lambda: token_scores(states_TH, targets_T, base.logits_of, base.vocabulary).logprobs_T.sum().backward(),
        lambda: torch.nn.functional.cross_entropy(base.logits_of(states_TH).float(), targets_T).backward(),
    )
    heads = types.SimpleNamespace(is_causal=True, num_key_value_groups=1)
    long = [noise(16, 8, 96, 64).requires_grad_() for _ in range(3)]
    yield Paths(
        "attention, 16 rows of 96 tokens, with a gradient",
        lambda: attention(heads, *long, None)[0].sum().backward(),  # type: ignore[arg-type]
        lambda: sdpa_attention_forward(heads, *long, None)[0].sum().backward(),  # type: ignore[arg-type]
    )
    one = [noise(16, 8, length, 64) for length in (1, 160, 160)]
    yield Paths(
        "attention, one new token of 16 rows after 160",
        without_gradient(lambda: attention(heads, *one, None)),  # type: ignore[arg-type]
        without_gradient(lambda: sdpa_attention_forward(heads, *one, None)),  # type: ignore[arg-type]
    )
    texts = collate(rows(16), base.pad_id)
    yield Paths(
        f"16 rows of 30 to 200 tokens without padding, {texts.attention_mask_BL.sum()} of {texts.ids_BL.numel()}",
        lambda: learn(base, texts),
        lambda: learn(replace(base, packs=False), texts),
    )
    yield Paths("the same, attention by rows of like length", lambda: learn(base, texts), one_group(base, texts))
    pairs = collate([row for row in rows(8) for row in (row, row._replace(response=row.response[::-1]))], base.pad_id)
    yield Paths(
        "8 pairs, the prompt of both computed once",
        lambda: learn(base, pairs),
        lambda: learn(base, pairs._replace(shared=tuple((row, 0) for row in range(16)))),
    )
    replies = [row._replace(prompt=first.prompt) for first in rows(8) for row in rows(4)]
    yield Paths(
        "4 replies to each of 8 prompts in passes of 1,024 tokens, those to one prompt together",
        lambda: [learn(base, batch) for _, batch in batches(base, replies, cutting.Budget(1024))],
        lambda: [
            learn(base, collate([replies[i] for i in group], base.pad_id))
            for group in cutting.Budget(1024).cut([row.length for row in replies])
        ],
    )
    prompts, settings = [row.prompt for row in rows(16)], SamplingSettings(max_new_tokens=32, batch_rows=16)
    yield Paths(
        "16 answers of 32 tokens drawn from unpacked, merged weights",
        lambda: draw(bank, base, prompts, settings),
        lambda: draw(bank, base, prompts, settings, bank.activate),
    )
    for tokens in (32, 128):
        longer = settings.model_copy(update={"max_new_tokens": tokens})
        yield Paths(
            f"16 answers of {tokens} tokens drawn, with room in their cache",
            partial(draw, bank, base, prompts, longer),
            usual_cache(partial(draw, bank, base, prompts, longer)),
        )
    first = settings.model_copy(update={"max_new_tokens": 8})
    yield Paths(
        "8 tokens for each of 16 answers to 4 prompts of 64 tokens, which are read once",
        lambda: draw(bank, base, [[number] * 64 for number in range(5, 9)] * 4, first),
        lambda: draw(bank, base, [[number] * 64 for number in range(5, 21)], first),
    )


def rows(count: int) -> list[Row]:
    """Make rows as long as texts of people are: most short, some long."""
    rng = random.Random(0)
    made = []
    for number in range(count):
        prompt, answer = rng.randint(10, 70), round(rng.triangular(20, 130, 40))
        made.append(Row([5 + number] * prompt, [9] * answer))
    return made


def learn(base: Base, batch: Batch) -> None:
    """Go forward and backward."""
    hidden_states(base, batch)[batch.predict_BL].sum().backward()


def one_group(base: Base, batch: Batch) -> Callable[[], None]:
    """Learn with attention of all rows as long as the longest."""

    def plain() -> None:
        before, cutting.LIKE = cutting.LIKE, 0.0
        try:
            learn(base, batch)
        finally:
            cutting.LIKE = before

    return plain


def draw(
    bank: AdapterBank,
    base: Base,
    prompts: list[list[int]],
    settings: SamplingSettings,
    way: Callable[[str], AbstractContextManager[None]] | None = None,
) -> None:
    """Draw answers that do not end early."""
    with (way or bank.drawing)("one"):
        complete(replace(base, eos_ids=frozenset()), prompts, settings)


def usual_cache(work: Callable[[], object]) -> Callable[[], None]:
    """Do it with the cache of transformers."""

    def plain() -> None:
        before, sampling.roomy_cache = sampling.roomy_cache, lambda config: DynamicCache(config=config)
        try:
            work()
        finally:
            sampling.roomy_cache = before

    return plain


def without_gradient(work: Callable[[], object]) -> Callable[[], object]:
    """Do it as drawing does."""
    return torch.no_grad()(work)


@contextmanager
def loaded() -> Iterator[AdapterBank]:
    """Make a random base, load it, and give it an adapter."""
    with tempfile.TemporaryDirectory() as folder:
        base = load_base(LoadSettings(base=str(make_base(Path(folder))), bits=4, device="cpu"))
        bank = AdapterBank(base)
        bank.create("one", LoraSettings(rank=16, alpha=32))
        yield bank


def compare(paths: Paths) -> dict[str, Any]:
    """Time both ways in turns, after one of each that warms up."""
    found: dict[str, list[float]] = {"fast": [], "plain": []}
    for turn in range(TURNS + 1):
        for way in found:
            began = time.perf_counter()
            getattr(paths, way)()
            if turn:
                found[way].append(1000 * (time.perf_counter() - began))
    fast, plain = (statistics.median(times) for times in found.values())
    return {"what": paths.what, "fast_ms": round(fast, 2), "plain_ms": round(plain, 2), "times": round(plain / fast, 2)}


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the paths with this in their description")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with loaded() as bank:
        found = []
        for paths in all_paths(bank):
            if args.only in paths.what:
                with nullcontext() if "answers" in paths.what else bank.activate("one"):
                    found.append(compare(paths))
                print(found[-1], file=sys.stderr)
    write(circumstances() | {"paths": found}, args.out)


if __name__ == "__main__":
    main()
