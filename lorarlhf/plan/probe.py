"""Time and measure forward, backward and decoding on a loaded base, in a few seconds, and leave nothing behind.

Every kind of work is done at two sizes with a real adapter: the difference gives the seconds of a token, what is left
those of a pass. Rows are as long as the stage's own, as different in length, and share prompts as those do. The larger
size is done once more under the eye of the allocator: what it took, as a multiple of the formula, corrects the formula.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
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
from lorarlhf.plan.work import Cutting, Effort, Example, Length
from lorarlhf.sampling import complete
from lorarlhf.settings import OptimSettings, PPOSettings, RewardSettings, SamplingSettings, Settings
from lorarlhf.train.checkpoint import Checkpoint, save_checkpoint
from lorarlhf.train.common import Studio
from lorarlhf.train.optim import Group, Optimizer

NAME = "lorarlhf-probe"
"""The adapter it works with; gone when it ends."""
SECONDS = 0.4
"""What one measurement may take; a slow machine gets smaller sizes."""
TOO_SLOW = 10 * SECONDS
"""What takes longer is measured once, its start included."""
AGAIN, REPEATS = 3, 5
"""At least and at most so often; the middle one counts: a stage meets the machine as it is on average, too."""
FIRST = 16
"""Tokens of the pass that tells how slow the machine is."""
SMALL = 64
"""Tokens of the smallest pass, where rows are that short."""
DECODED = 8
"""Tokens drawn one after the other in a measurement."""

Clock = Callable[[], float]


def load_of(base: Base) -> Load:
    """Describe a loaded base to the formulas."""
    shape = shape_of(base.model.config, str(base.identity["name"]))
    return Load(shape, base.settings.bits, base.compute_dtype.itemsize, base.device.type, base.packs)


def probe(
    studio: Studio, settings: Settings, examples: Sequence[Example], *, clock: Clock = time.perf_counter
) -> Probed:
    """Measure with a throwaway adapter of these settings on rows as long as those of `examples`.

    Seconds are those of `clock`. Raises `AdapterError` where an adapter is at work.
    """
    assert isinstance(settings, OptimSettings)
    bank = studio.bank
    limit = min(context_of(studio.base), settings.max_length)
    examples = [tuple(_within(row, limit) for row in example) for example in examples]
    random_state = torch.get_rng_state()
    bank.create(NAME, settings, head=True)  # type: ignore[arg-type]
    try:
        return _Probe(studio, settings, examples, clock).run()
    finally:
        bank.delete(NAME)
        torch.set_rng_state(random_state)
        release_memory()


def _within(row: Length, width: int) -> Length:
    """Cut a row to so many tokens, an eighth of it at least prompt; each part has one or more."""
    answer = min(max(1, row.answer), max(1, width * 7 // 8))
    return Length(max(1, min(row.prompt, width - answer)), answer)


class _Probe:
    """The measurements."""

    def __init__(self, studio: Studio, settings: OptimSettings, examples: Sequence[Example], clock: Clock) -> None:
        self.studio, self.settings, self.examples, self.clock = studio, settings, examples, clock
        self.base = studio.base
        self.head = studio.bank.heads[NAME]
        self.load = load_of(studio.base)
        self.cutting = Cutting(settings.micro_batch_tokens, padded=not self.load.packs)
        self.small, self.large = 1, 2
        """Examples of the smaller and of the larger pass."""

    def run(self) -> Probed:
        """Measure everything."""
        self._afford()
        learn, score = self._lines(self.learn), self._lines(self.score)
        drawing = self._decoding(*score[:2]) if isinstance(self.settings, PPOSettings) else (0.0, 0.0, 0.0)
        pace = Effort(*learn, *score, *drawing, self._update(), self._write())
        correction, heap, measured = self._memory()
        return Probed(pace, correction, heap, {**measured, "seconds_per": pace._asdict()})

    # -- the work ---------------------------------------------------------------------------------------------

    def some(self, count: int) -> list[Example]:
        """Return so many examples; where there are fewer they come again, with other words."""
        return [self.examples[i % len(self.examples)] for i in range(count)]

    def size(self, count: int) -> Pass:
        """Describe the pass of so many examples."""
        return self.cutting.one_pass(self.some(count), logits=True)

    def writer(self) -> Callable[[int], list[int]]:
        """Return what writes texts of so many random words, the same ones each time."""
        words, top = torch.Generator().manual_seed(0), self.base.vocabulary - 1
        return lambda length: torch.randint(0, top, (length,), generator=words).tolist()

    def batch(self, count: int) -> Batch:
        """Make the rows of so many examples, of random words."""
        text, made = self.writer(), []
        for example in self.some(count):
            prompt = text(max(row.prompt for row in example))
            made += [Row(prompt[: row.prompt], text(row.answer)) for row in example]
        return collate(made, self.base.pad_id, self.base.device)

    def learn(self, count: int, *, logits: bool) -> None:
        """Go forward and backward."""
        with self.studio.training(self.settings.gradient_checkpointing), self._active():
            self._output(self.batch(count), logits).sum().backward()
        self.forget()

    @torch.no_grad()
    def score(self, count: int, *, logits: bool) -> None:
        """Go forward."""
        with self._active():
            self._output(self.batch(count), logits).cpu()

    def prompts(self, rows: int) -> list[int]:
        """Return how long the prompts of so many drawn answers are."""
        return [row.prompt for example in self.some(rows) for row in example][:rows]

    def draw(self, rows: int, tokens: int) -> None:
        """Draw answers that do not end early."""
        prompts = list(map(self.writer(), self.prompts(rows)))
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
        return statistics.median(found)

    def _once(self, work: Callable[[], object]) -> float:
        # A step begins with memory given back to the system, and pays for getting it again.
        release_memory()
        self._wait()
        began = self.clock()
        work()
        self._wait()
        return self.clock() - began

    def _wait(self) -> None:
        if self.base.device.type != "cpu":
            torch.accelerator.synchronize()

    def _afford(self) -> None:
        """Choose both sizes: up to the largest pass of the stage, as far as `SECONDS` allow."""
        wanted = [self._fitting(example) for example in self.examples]
        longest = max(row.total for example in wanted for row in example)
        # The first pass on a card loads its kernels, and short rows take it as long as long ones.
        card = self.base.device.type != "cpu"
        width = longest if card else FIRST
        if card:
            self.examples = [tuple(_within(row, FIRST) for row in example) for example in wanted]
            self.learn(1, logits=True)
        while True:
            self.examples = [tuple(_within(row, width) for row in example) for example in wanted]
            if width >= longest or self._once(lambda: self.learn(1, logits=True)) > SECONDS / 4:
                break
            width *= 2
        most = 2
        while self.size(most + 1).tokens <= self.settings.micro_batch_tokens:
            most += 1
        while self.size(self.small).tokens < SMALL and self.small < most // 2:
            self.small += 1
        self.large = 2 * self.small
        while self.large < most and self._once(lambda: self.learn(self.large, logits=True)) < SECONDS:
            self.large = min(most, 2 * self.large)

    def _fitting(self, example: Example) -> Example:
        """Leave out answers to a prompt that two such examples have no room for in a pass: no step has them either."""
        while len(example) > 1 and isinstance(self.settings, PPOSettings):
            if self.cutting.one_pass([example] * 2, logits=True).tokens <= self.settings.micro_batch_tokens:
                break
            example = example[:-1]
        return example

    def _lines(self, work: Callable[..., None]) -> tuple[float, float, float]:
        """Measure one kind of pass → seconds a pass, a token, an answer token's logits."""
        few, many = self.small, self.large
        first, second = (self._seconds(lambda n=n: work(n, logits=False)) for n in (few, many))  # type: ignore[misc]
        less, more = self.size(few), self.size(many)
        token = max(0.0, second - first) / (more.tokens - less.tokens)
        fixed = max(0.0, first - token * less.tokens)
        whole = self._seconds(lambda: work(many, logits=True))
        return fixed, token, max(0.0, whole - fixed - token * more.tokens) / more.answers

    def _decoding(self, score_pass: float, score_token: float) -> tuple[float, float, float]:
        """Measure (seconds to begin, seconds a step, seconds a row of a step).

        A step is the difference between long and short answers; beginning, what short ones take beside reading.
        """

        def drawn(rows: int, tokens: int) -> float:
            return self._seconds(lambda: self.draw(rows, tokens))

        many = self._side_by_side()
        few = max(1, many // 8)
        short = {rows: drawn(rows, 1) for rows in (few, many)}
        first, second = (max(0.0, drawn(rows, 1 + DECODED) - short[rows]) / DECODED for rows in (few, many))
        row = max(0.0, second - first) / (many - few)
        begin = max(0.0, short[few] - score_pass - score_token * few * max(self.prompts(few)))
        return begin, max(0.0, first - few * row), row

    def _side_by_side(self) -> int:
        """Choose how many answers to draw: as many as the stage does, as far as the time allows."""
        s = self.settings
        rows = min(s.rollout_rows, s.batch_size) if isinstance(s, PPOSettings) else 0
        return max(2, min(rows, 2 * self.size(self.large).rows))

    def _update(self) -> float:
        group = Group(NAME, self.studio.bank.parameters(NAME), 1e-8)
        optimizer = Optimizer([group], self.settings, self.studio.team)

        def update() -> None:
            for parameter in group.parameters:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step(0, 1)

        return self._seconds(update)

    def _write(self) -> float:
        """Write what a checkpoint has of one adapter: itself, two moments, the best one, and the one beside it."""
        state = self.studio.bank.state(NAME)
        tensors = {f"{copy}.{key}": value for copy in range(5) for key, value in state.items()}
        with tempfile.TemporaryDirectory() as folder:
            return self._seconds(lambda: save_checkpoint(Path(folder), Checkpoint(0, tensors, {})))

    # -- memory -----------------------------------------------------------------------------------------------

    def _memory(self) -> tuple[Correction, float | None, dict]:
        """Compare the larger size with the formula."""
        logits = not isinstance(self.settings, RewardSettings)
        seen, rows = self.cutting.one_pass(self.some(self.large), logits=logits), self._side_by_side()
        prompt = max(self.prompts(rows))
        own = sum(p.numel() * p.element_size() for p in self.studio.bank.parameters(NAME))
        rank, targets = self.settings.rank, self.settings.targets  # type: ignore[attr-defined]
        said = {
            "learn": learn_bytes(self.load, seen, rank, targets, self.settings.gradient_checkpointing),
            "score": score_bytes(self.load, seen),
            "draw": draw_bytes(self.load, Drawing(rows, prompt, DECODED, getattr(self.settings, "top_p", 1.0))),
        }
        work: dict[str, Callable[[], None]] = {
            "learn": lambda: self.learn(self.large, logits=logits),
            "score": lambda: self.score(self.large, logits=logits),
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
