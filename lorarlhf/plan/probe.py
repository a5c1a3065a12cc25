"""Time and measure forward, backward and decoding on a loaded base, in a few seconds, and leave nothing behind.

Every kind of work is done at two sizes with a real adapter: the difference gives the seconds of a token, what is left
those of a pass. The larger size is done once more under the eye of the allocator: what it took, as a multiple of the
formula, corrects the formula.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lorarlhf.base import Base
from lorarlhf.data.tokens import Batch, Row, collate
from lorarlhf.forward import context_of, response_logprobs, response_values
from lorarlhf.hardware import release_memory
from lorarlhf.plan.memory import Correction, Drawing, Load, Pass, draw_bytes, learn_bytes, score_bytes
from lorarlhf.plan.peak import allocated, resident
from lorarlhf.plan.planning import Probed
from lorarlhf.plan.shapes import shape_of
from lorarlhf.plan.work import Effort
from lorarlhf.sampling import complete
from lorarlhf.settings import OptimSettings, PPOSettings, SamplingSettings, Settings
from lorarlhf.train.checkpoint import Checkpoint, save_checkpoint
from lorarlhf.train.common import Studio
from lorarlhf.train.optim import Group, Optimizer

NAME = "lorarlhf-probe"
"""The adapter it works with; gone when it ends."""
SECONDS = 0.4
"""What one measurement may take; a slow machine gets smaller sizes."""
TOO_SLOW = 10 * SECONDS
"""What takes longer is measured once, its start included."""
AGAIN, REPEATS = 2, 4
"""At least and at most so often; the quickest counts: whatever else the machine does only ever makes it slower."""
FIRST = 16
"""Tokens of the pass that tells how slow the machine is."""
SMALL = 64
"""Tokens of the smallest pass, where rows are that short."""
DECODED = 8
"""Tokens drawn one after the other in a measurement."""

Clock = Callable[[], float]


@dataclass(frozen=True)
class Sizes:
    """What to probe with: as near to the real work as a few seconds allow."""

    width: int = 64
    """Tokens of a row."""
    answer: int = 32
    """Tokens of its answer."""
    rows: int = 64
    """Answers drawn side by side."""


def load_of(base: Base) -> Load:
    """Describe a loaded base to the formulas."""
    shape = shape_of(base.model.config, str(base.identity["name"]))
    return Load(shape, base.settings.bits, base.compute_dtype.itemsize, base.device.type, base.packs)


def probe(
    studio: Studio, settings: Settings, sizes: Sizes | None = None, *, clock: Clock = time.perf_counter
) -> Probed:
    """Measure with a throwaway adapter of these settings; seconds are those of `clock`.

    Raises `AdapterError` where an adapter is at work.
    """
    assert isinstance(settings, OptimSettings)
    base, bank = studio.base, studio.bank
    limit = context_of(base)
    sizes = sizes or Sizes()
    width = max(4, min(sizes.width, limit, settings.max_length))
    sizes = replace(sizes, width=width, answer=max(1, min(sizes.answer, width - 1)))
    random_state = torch.get_rng_state()
    bank.create(NAME, settings, head=True)  # type: ignore[arg-type]
    try:
        return _Probe(studio, settings, sizes, clock).run()
    finally:
        bank.delete(NAME)
        torch.set_rng_state(random_state)
        release_memory()


class _Probe:
    """The measurements."""

    def __init__(self, studio: Studio, settings: OptimSettings, sizes: Sizes, clock: Clock) -> None:
        self.studio, self.settings, self.sizes, self.clock = studio, settings, sizes, clock
        self.base = studio.base
        self.head = studio.bank.heads[NAME]
        self.load = load_of(studio.base)
        self.small, self.large = 1, 2

    def run(self) -> Probed:
        """Measure everything."""
        self._afford()
        learn, learn_logit = self._lines(self.learn)
        score, score_logit = self._lines(self.score)
        step, drawn = self._decoding() if isinstance(self.settings, PPOSettings) else (0.0, 0.0)
        pace = Effort(*learn, learn_logit, *score, score_logit, step, drawn, self._update(), self._write())
        correction, heap, measured = self._memory()
        return Probed(pace, correction, heap, {**measured, "seconds_per": pace._asdict(), "sizes": vars(self.sizes)})

    # -- the work ---------------------------------------------------------------------------------------------

    def batch(self, rows: int) -> Batch:
        """Make rows of random words, one of them a token shorter, so that they are padded as real ones are."""
        words = torch.Generator().manual_seed(0)
        top = self.base.vocabulary - 1

        def row(length: int) -> Row:
            tokens = torch.randint(0, top, (length,), generator=words).tolist()
            return Row(tokens[: -self.sizes.answer], tokens[-self.sizes.answer :])

        made = [row(self.sizes.width - (number == 1)) for number in range(rows)]
        made = [r if r.prompt else Row(r.response[:1], r.response[1:]) for r in made]
        return collate(made, self.base.pad_id, self.base.device)

    def learn(self, rows: int, *, logits: bool) -> None:
        """Go forward and backward."""
        with self.studio.training(self.settings.gradient_checkpointing), self._active():
            self._output(self.batch(rows), logits).sum().backward()
        self.forget()

    @torch.no_grad()
    def score(self, rows: int, *, logits: bool) -> None:
        """Go forward."""
        with self._active():
            self._output(self.batch(rows), logits).cpu()

    def draw(self, rows: int, tokens: int) -> None:
        """Draw answers that do not end early."""
        prompt = self.batch(rows).ids_BL[:, : max(2, self.sizes.width - self.sizes.answer)].tolist()
        prompts = [ids[number == 1 :] for number, ids in enumerate(prompt)]
        settings = SamplingSettings(
            max_new_tokens=tokens,
            batch_rows=rows,
            temperature=getattr(self.settings, "temperature", 1.0),
            top_p=getattr(self.settings, "top_p", 1.0),
        )
        with self.studio.bank.drawing(NAME):
            complete(replace(self.base, eos_ids=frozenset()), prompts, settings)

    def forget(self) -> None:
        """Drop the gradients."""
        for parameter in self.studio.bank.parameters(NAME):
            parameter.grad = None

    def _output(self, batch: Batch, logits: bool) -> torch.Tensor:
        if logits:
            return response_logprobs(self.base, batch).logprobs_T
        return response_values(self.base, self.head, batch)

    @contextmanager
    def _active(self) -> Iterator[None]:
        with self.studio.bank.activate(NAME):
            yield

    # -- time -------------------------------------------------------------------------------------------------

    def _seconds(self, work: Callable[[], object]) -> float:
        first = self._once(work)
        if first > TOO_SLOW:
            return first
        # The first time of a new size, libraries choose and even write their code.
        found: list[float] = []
        while len(found) < AGAIN or (len(found) < REPEATS and sum(found) < SECONDS):
            found.append(self._once(work))
        return min(found)

    def _once(self, work: Callable[[], object]) -> float:
        # A step begins with memory given back to the system, and pays for getting it again.
        release_memory()
        self._wait()
        began = self.clock()
        work()
        self._wait()
        return self.clock() - began

    def _wait(self) -> None:
        if self.base.device.type in ("cuda", "xpu"):
            getattr(torch, self.base.device.type).synchronize(self.base.device)

    def _afford(self) -> None:
        """Choose both sizes: up to the largest pass of the stage, as far as `SECONDS` allow."""
        wanted = self.sizes
        width = min(FIRST, wanted.width)
        self.sizes = replace(wanted, width=width, answer=min(wanted.answer, width - 1))
        tokens = SECONDS * width / self._seconds(lambda: self.learn(1, logits=True))
        width = max(width, min(wanted.width, int(tokens / 2)))
        self.sizes = replace(
            wanted, width=width, answer=max(1, min(wanted.answer, width * wanted.answer // wanted.width))
        )
        most = max(2, self.settings.micro_batch_tokens // width)
        self.small = min(max(1, SMALL // width), most // 2)
        each = self._seconds(lambda: self.learn(self.small, logits=True)) / self.small
        self.large = max(2 * self.small, min(most, int(SECONDS / each)))

    def _lines(self, work: Callable[..., None]) -> tuple[tuple[float, float], float]:
        """Measure one kind of pass → ((seconds a pass, seconds a token), seconds an answer token's logits)."""
        few, many = self.small, self.large
        first, second = (self._seconds(lambda n=n: work(n, logits=False)) for n in (few, many))  # type: ignore[misc]
        width = self.sizes.width
        token = max(0.0, second - first) / ((many - few) * width)
        fixed = max(0.0, first - token * few * width)
        whole = self._seconds(lambda: work(many, logits=True))
        return (fixed, token), max(0.0, whole - fixed - token * many * width) / (many * self.sizes.answer)

    def _decoding(self) -> tuple[float, float]:
        """Measure (seconds a step, seconds a row of a step) as the difference between long and short answers."""

        def step(rows: int) -> float:
            long, short = (self._seconds(lambda n=n: self.draw(rows, n)) for n in (1 + DECODED, 1))  # type: ignore[misc]
            return max(0.0, long - short) / DECODED

        many = max(2, min(self.sizes.rows, 2 * self.large))
        few = max(1, many // 8)
        first, second = step(few), step(many)
        row = max(0.0, second - first) / (many - few)
        return max(0.0, first - few * row), row

    def _update(self) -> float:
        group = Group(NAME, self.studio.bank.parameters(NAME), 1e-8)
        optimizer = Optimizer([group], self.settings, self.studio.team)

        def update() -> None:
            for parameter in group.parameters:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step(0, 1)

        return self._seconds(update)

    def _write(self) -> float:
        """Write what a checkpoint holds of one adapter: itself, two moments, the best one."""
        state = self.studio.bank.state(NAME)
        tensors = {f"{copy}.{key}": value for copy in range(4) for key, value in state.items()}
        with tempfile.TemporaryDirectory() as folder:
            return self._seconds(lambda: save_checkpoint(Path(folder), Checkpoint(0, tensors, {})))

    # -- memory -----------------------------------------------------------------------------------------------

    def _memory(self) -> tuple[Correction, float | None, dict]:
        """Compare the larger size with the formula."""
        width, answers = self.sizes.width, self.large * self.sizes.answer
        seen = Pass(self.large, width, answers, (self.large * width - 1) * self.load.packs)
        rows = max(2, min(self.sizes.rows, 2 * self.large))
        prompt = max(2, width - self.sizes.answer)
        own = sum(p.numel() * p.element_size() for p in self.studio.bank.parameters(NAME))
        rank, targets = self.settings.rank, self.settings.targets  # type: ignore[attr-defined]
        said = {
            "learn": learn_bytes(self.load, seen, rank, targets, self.settings.gradient_checkpointing),
            "score": score_bytes(self.load, seen),
            "draw": draw_bytes(self.load, Drawing(rows, prompt, DECODED, getattr(self.settings, "top_p", 1.0))),
        }
        work: dict[str, Callable[[], None]] = {
            "learn": lambda: self.learn(self.large, logits=True),
            "score": lambda: self.score(self.large, logits=True),
            "draw": lambda: self.draw(rows, DECODED),
        }
        if not isinstance(self.settings, PPOSettings):
            del work["draw"], said["draw"]
        measured, kept = {}, {}
        for kind, do in work.items():
            release_memory()
            with resident() as held:
                do()
            with allocated(self.base.device) as peak:
                do()
            measured[kind] = peak.bytes
            kept[kind] = max(0, held.bytes - peak.bytes) if held.bytes else None
        formula = {kind: sum(parts.values()) for kind, parts in said.items()}
        # Gradients come while activations go; only where they are more than those do they show.
        learned = measured["learn"] if measured["learn"] > own else formula["learn"]
        correction = Correction(
            learn=learned / formula["learn"],
            score=measured["score"] / formula["score"],
            draw=_beyond(measured, formula, said["draw"]["cache"]) if "draw" in said else 1.0,
        )
        seen_heaps = [count for count in kept.values() if count is not None]
        heap = float(max(seen_heaps)) if seen_heaps and self.base.device.type == "cpu" else None
        return (
            correction,
            heap,
            {
                "measured_bytes": measured,
                "formula_bytes": {kind: round(count) for kind, count in formula.items()},
                "heap_bytes": heap,
                "tokens": seen.tokens,
            },
        )


def _beyond(measured: dict[str, int], formula: dict[str, float], cache: float) -> float:
    """Compare what drawing takes beyond its cache, of which the formula is exact."""
    return max(0.1, (measured["draw"] - cache) / max(1.0, formula["draw"] - cache))
