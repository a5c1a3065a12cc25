"""The stages once more, plain and slow: one row at a time, full logits, lists of numbers. Knows none of their code.

Works on a twin: the same base loaded again, with the same adapters, so that its weights are its own.
"""

from __future__ import annotations

import math
from typing import Any

import torch


def order(count: int, seed: int, epoch: int = 0) -> list[int]:
    """Shuffle as the documentation of the order says: a generator seeded by seed and epoch."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    return torch.randperm(count, generator=generator).tolist()


def walk(index: int, size: int, count: int, seed: int) -> list[int]:
    """Take stretch `index` of one shuffled pass after another."""
    endless = [i for epoch in range((index + 1) * size // count + 1) for i in order(count, seed, epoch)]
    return endless[index * size : (index + 1) * size]


def rate_at(step: int, total: int, rate: float, warmup: float, schedule: str) -> float:
    """Write the learning rate out: linear growth, then linear or cosine decay that would reach 0 after the end."""
    warm = math.ceil(warmup * total)
    if step < warm:
        return rate * (step + 1) / warm
    gone = (step - warm) / max(1, total - warm)
    return rate * {"constant": 1.0, "linear": 1 - gone, "cosine": 0.5 * (1 + math.cos(math.pi * gone))}[schedule]


def logprobs(base: Any, row: Any, temperature: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Score the response tokens of a row under the active adapter → log-probabilities [R], entropies [R]."""
    ids = torch.tensor([row.prompt + row.response])
    logits = base.model(input_ids=ids, use_cache=False).logits[0].float() / temperature
    start = len(row.prompt) - 1
    all_RV = torch.log_softmax(logits[start : start + len(row.response)], -1)
    return all_RV[range(len(row.response)), row.response], -(all_RV.exp() * all_RV).sum(-1)


def states(base: Any, row: Any) -> torch.Tensor:
    """Return the states response tokens were chosen in, and that of the last token → [R + 1, H]."""
    ids = torch.tensor([row.prompt + row.response])
    hidden = base.model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states[-1][0]
    return hidden[len(row.prompt) - 1 :]


def linear(weights: dict[str, torch.Tensor], name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def clip_norm(parameters: list[torch.Tensor], most: float) -> float:
    """Shorten gradients together to a norm of `most` → the norm before."""
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in parameters if p.grad is not None))
    for p in parameters:
        if p.grad is not None and norm > most:
            p.grad *= most / (norm + 1e-6)
    return norm


def advantages(
    rewards: list[list[float]], values: list[list[float]] | None, gamma: float, lam: float, answers: int
) -> tuple[list[list[float]], list[list[float]]]:
    """Estimate advantages and returns, token by token; without values by leaving one answer out."""
    if values is None:
        earned = [sum(row) for row in rewards]
        found = []
        for b, row in enumerate(rewards):
            first = b - b % answers
            others = [earned[i] for i in range(first, first + answers) if i != b]
            found.append([earned[b] - sum(others) / len(others)] * len(row))
        return found, [[earned[b]] * len(row) for b, row in enumerate(rewards)]
    found = []
    for row, value in zip(rewards, values, strict=True):
        ahead, later = [0.0] * len(row), 0.0
        for t in reversed(range(len(row))):
            following = value[t + 1] if t + 1 < len(row) else 0.0
            later = row[t] + gamma * following - value[t] + gamma * lam * later
            ahead[t] = later
        found.append(ahead)
    returns = [[a + v for a, v in zip(one, value, strict=True)] for one, value in zip(found, values, strict=True)]
    return found, returns


def whitened(rows: list[list[float]], *, centre: bool) -> list[list[float]]:
    """Scale numbers to unit variance over all tokens; keep their mean unless it is to be centred."""
    flat = torch.tensor([x for row in rows for x in row], dtype=torch.float64)
    mean, deviation = float(flat.mean()), math.sqrt(float(flat.var(unbiased=False)) + 1e-8)
    return [[(x - mean * centre) / deviation for x in row] for row in rows]
