"""How examples are cut into steps and micro-batches. Knows no tensors, so that a plan can cut them the same way."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

ANCHORS = 256
"""Demonstrations whose mean score becomes 0: enough for a standard error of 6 % of the spread."""


Prompts = Sequence[tuple[int, int]]
"""Per row the number of its prompt, the same where rows share it, and the prompt's tokens."""


def micro_batches(
    lengths: Sequence[int], budget: int, *, padded: bool = False, prompts: Prompts = ()
) -> list[list[int]]:
    """Cut rows into groups of at most `budget` tokens → row indices, longest rows first.

    Rows that share a prompt stand together, behind their longest; where rows are padded nothing is shared. A row longer
    than the budget gets a group of its own.
    """
    number = [prompt for prompt, _ in prompts] if prompts and not padded else range(len(lengths))
    longest: dict[int, int] = {}
    for prompt, length in zip(number, lengths, strict=True):
        longest[prompt] = max(length, longest.get(prompt, 0))
    groups: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-longest[number[i]], number[i], -lengths[i], i)):
        more = lengths[index]
        if groups and padded:
            more = lengths[groups[-1][0]]
        elif groups and number[groups[-1][-1]] == number[index]:
            more -= prompts[index][1]  # computed already
        if not groups or more > room:
            groups.append([])
            room, more = budget, lengths[index]
        groups[-1].append(index)
        room -= more
    return groups


def pass_tokens(group: Sequence[int], lengths: Sequence[int], *, padded: bool = False, prompts: Prompts = ()) -> int:
    """Count the tokens of rows in one pass: each padded to the longest, or each prompt they share counted once."""
    if padded:
        return len(group) * max(lengths[i] for i in group)
    if not prompts:
        return sum(lengths[i] for i in group)
    once = dict(prompts[i] for i in group)
    return sum(lengths[i] - prompts[i][1] for i in group) + sum(once.values())


LIKE = 0.75
"""Rows at least so long, as a share of the longest, stand in one group for attention."""


def like_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Put rows of like length into groups → row indices, longest rows first.

    Attention pays for every pair of tokens, padding included; a group costs a few calls of its own.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not groups or lengths[index] < LIKE * lengths[groups[-1][0]]:
            groups.append([])
        groups[-1].append(index)
    return groups


def vote_tokens(lengths: Sequence[int], shared: int, *, padded: bool = False) -> int:
    """Count the tokens of rows with a prompt of `shared` tokens in common, computed once unless padded."""
    return len(lengths) * max(lengths) if padded else sum(lengths) - (len(lengths) - 1) * shared


@dataclass
class Budget:
    """How much goes through the base at a time; less takes less memory and gives the same numbers within rounding."""

    tokens: int
    """Tokens of a forward and backward pass, unless a single row is longer."""
    rows: int = 1
    """Answers drawn side by side."""
    breathe: Callable[[], None] = lambda: None
    """Called before every pass and after every decoded token; may raise to break off."""
    most_tokens: int = 0
    """Tokens of the largest pass since `begin`."""
    most_rows: int = 0
    """Rows of the pass with the most of them since `begin`."""
    most_drawn: int = 0
    """Answers drawn side by side at most since `begin`."""

    def begin(self) -> None:
        """Forget what passes were made so far."""
        self.most_tokens = self.most_rows = self.most_drawn = 0

    def cut(self, lengths: Sequence[int], *, padded: bool = False, prompts: Prompts = ()) -> Iterator[list[int]]:
        """Yield the micro-batches of rows of these lengths, as row indices; see `micro_batches`."""
        for group in micro_batches(lengths, self.tokens, padded=padded, prompts=prompts):
            self.breathe()
            tokens = pass_tokens(group, lengths, padded=padded, prompts=prompts)
            self.most_tokens = max(self.most_tokens, tokens)
            self.most_rows = max(self.most_rows, len(group))
            yield group

    def side_by_side(self, answers: int) -> int:
        """Tell how many of `answers` to draw side by side."""
        self.breathe()
        rows = max(1, min(answers, self.rows))
        self.most_drawn = max(self.most_drawn, rows)
        return rows

    def halve(self) -> str:
        """Make the next passes half as large as the largest was → what changed, in words.

        Empty where no pass can be smaller: each was of a single row.
        """
        if max(self.most_rows, self.most_drawn) == 1 or self.tokens == 1:
            return ""
        before = self.tokens, self.rows
        self.tokens = max(1, min(self.tokens, self.most_tokens or self.tokens) // 2)
        self.rows = max(1, min(self.rows, self.most_drawn or self.rows) // 2)
        words = [f"micro_batch_tokens {before[0]} → {self.tokens}"]
        if before[1] > self.rows:
            words.append(f"rollout_rows {before[1]} → {self.rows}")
        return ", ".join(words)


def measured_every(asked: int, total: int) -> int:
    """Return the steps between measurements: as asked, or where 0 is asked so that a run has eight of them."""
    return asked or max(1, math.ceil(total / 8))


FIRST_PASSES = 2.0
"""Passes over the examples of a run whose number of passes is left to the program; more follow where they help."""
TRIAL_STEPS, TRIAL_SHARE, TRIAL_RATES = 20, 0.7, 4
"""Steps of a trial at most, as a share of the first pass (the rest is there to measure on), and rates at most."""


def passes_of(epochs: float | str) -> float:
    """Return the passes a run begins with."""
    return FIRST_PASSES if isinstance(epochs, str) else epochs


def trial_steps(batch_size: int, length: int) -> int:
    """Return the steps that each learning rate of a trial makes."""
    return max(1, min(TRIAL_STEPS, round(TRIAL_SHARE * math.ceil(length / min(batch_size, length)))))


def steps_of(epochs: float, batch_size: int, length: int) -> int:
    """Return how many batches of at most `batch_size` make `epochs` passes over `length` examples, at least one."""
    return max(1, math.ceil(epochs * length / min(batch_size, length)))
