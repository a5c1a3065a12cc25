"""Log-probabilities of given tokens without ever holding the logits of a whole batch.

2,048 tokens of a 152k vocabulary are 1.2 GB of fp32 logits per copy. Here logits exist for one chunk of tokens at a
time, and only in the forward pass: a token's log-probability is one number, so that the slope of it along its hidden
state, a row as wide as the model, is all that the backward pass needs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

LogitsOf = Callable[[Tensor], Tensor]
"""Maps hidden states [T, H] to logits [T, V]."""

CHUNK_ELEMENTS = {"cpu": 2**22, "other": 2**24}
"""Logits alive at once: on a processor what its cache holds (10 % faster than 2**24 at 8,192 tokens of vocabulary)."""
LEAST_ROWS = 64
"""Tokens scored at once at least, whatever the vocabulary: the output layer is read anew for each chunk."""


class TokenScores(NamedTuple):
    """What the policy thinks of each token."""

    logprobs_T: Tensor
    entropy_T: Tensor
    """Entropy of the distribution the token was drawn from, in nats; carries a gradient where that was asked for."""


def token_scores(
    hidden_TH: Tensor,
    targets_T: Tensor,
    logits_of: LogitsOf,
    vocabulary: int,
    temperature: float = 1.0,
    *,
    learn_entropy: bool = False,
) -> TokenScores:
    """Score `targets_T` under the distributions that `hidden_TH` stands for.

    The temperature divides the logits, so these are the log-probabilities tokens were really sampled with
    (arXiv 2403.17031, detail 8). Results are fp32. Gradients reach the hidden states, not the weights of `logits_of`.
    """
    rows = chunk_rows(vocabulary, hidden_TH.device)
    return TokenScores(*_TokenScores.apply(hidden_TH, targets_T, logits_of, rows, temperature, learn_entropy))


def chunk_rows(vocabulary: int, device: torch.device) -> int:
    """Return the number of tokens whose logits are alive at once."""
    return max(LEAST_ROWS, CHUNK_ELEMENTS["cpu" if device.type == "cpu" else "other"] // vocabulary)


class _TokenScores(torch.autograd.Function):
    """With p = softmax(z): ∂ log p_t / ∂z = e_t − p, and ∂H / ∂z = −p · (log p + H) (the temperature divides both)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_TH: Tensor,
        targets_T: Tensor,
        logits_of: LogitsOf,
        rows: int,
        temperature: float,
        learn_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        wanted = (1 + learn_entropy) if ctx.needs_input_grad[0] else 0
        logprobs_T = torch.empty(len(targets_T), device=hidden_TH.device)
        entropy_T = torch.empty_like(logprobs_T)
        slopes = [torch.empty_like(hidden_TH) for _ in range(wanted)]
        for start in range(0, len(targets_T), rows):
            part = slice(start, start + rows)
            chunk = _Chunk(hidden_TH[part], logits_of, temperature, learn=wanted > 0)
            logprobs_T[part], entropy_T[part] = chunk.score(targets_T[part])
            if wanted > 1:
                slopes[1][part] = chunk.entropy_slope(entropy_T[part])
            if wanted:
                slopes[0][part] = chunk.logprob_slope(targets_T[part])
            del chunk  # or its logits live on until those of the next one are made
        ctx.save_for_backward(*slopes)
        if not learn_entropy:
            ctx.mark_non_differentiable(entropy_T)
        return logprobs_T, entropy_T

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        slopes = ctx.saved_tensors  # type: ignore[attr-defined]
        by_hidden_TH = sum(
            slope_TH * gradient_T[:, None] for slope_TH, gradient_T in zip(slopes, gradients, strict=False)
        )
        assert isinstance(by_hidden_TH, Tensor)
        return by_hidden_TH.to(slopes[0].dtype), None, None, None, None, None


class _Chunk:
    """The logits of a few tokens, while they are alive."""

    def __init__(self, hidden_TH: Tensor, logits_of: LogitsOf, temperature: float, *, learn: bool) -> None:
        self.hidden_TH, self.temperature = hidden_TH.detach().requires_grad_(learn), temperature
        with torch.set_grad_enabled(learn):
            self.logits_TV = logits_of(self.hidden_TH)
        # A copy in any case: soft caps need their logits as they were for the way back.
        self.shifted_TV = self.logits_TV.detach().to(torch.float32, copy=True)
        if temperature != 1:
            self.shifted_TV.div_(temperature)
        self.shifted_TV.sub_(self.shifted_TV.amax(-1, keepdim=True))

    def score(self, targets_T: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probability and entropy of each token."""
        self.probs_TV = self.shifted_TV.exp()
        total_T1 = self.probs_TV.sum(-1, keepdim=True)
        self.log_total_T1 = total_T1.log()
        self.probs_TV.div_(total_T1)
        target_T = self.shifted_TV.gather(-1, targets_T[:, None]).squeeze(-1)
        log_total_T = self.log_total_T1.squeeze(-1)
        expected_T = torch.einsum("tv,tv->t", self.probs_TV, self.shifted_TV)
        return target_T - log_total_T, log_total_T - expected_T

    def entropy_slope(self, entropy_T: Tensor) -> Tensor:
        """Differentiate the entropy by the hidden states → [T, H]."""
        inner_TV = self.shifted_TV.sub_(self.log_total_T1).add_(entropy_T[:, None]).mul_(self.probs_TV).neg_()
        return self._back(inner_TV, last=False)

    def logprob_slope(self, targets_T: Tensor) -> Tensor:
        """Differentiate the log-probability by the hidden states → [T, H]; the last thing a chunk can be asked."""
        slope_TV = self.probs_TV.neg_()
        slope_TV.scatter_add_(-1, targets_T[:, None], torch.ones_like(self.log_total_T1))
        return self._back(slope_TV, last=True)

    def _back(self, slope_TV: Tensor, *, last: bool) -> Tensor:
        slope_TV = slope_TV.div_(self.temperature).to(self.logits_TV.dtype)
        return torch.autograd.grad(self.logits_TV, self.hidden_TH, slope_TV, retain_graph=not last)[0]
