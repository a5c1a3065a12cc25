"""Log-probabilities of given tokens without ever holding the logits of a whole batch.

2,048 tokens of a 152k vocabulary are 1.2 GB of fp32 logits per copy. Here logits exist for one chunk of tokens at
a time, in the forward pass and again, recomputed, in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

LogitsOf = Callable[[Tensor], Tensor]
"""Maps hidden states [T, H] to logits [T, V]."""

CHUNK_ELEMENTS = 2**24
"""Logits alive at once: 64 MB of fp32."""


class TokenScores(NamedTuple):
    """What the policy thinks of each token."""

    logprobs_T: Tensor
    entropy_T: Tensor
    """Entropy of the distribution the token was drawn from, in nats; carries a gradient."""


def _score_chunk(
    hidden_TH: Tensor, targets_T: Tensor, logits_of: LogitsOf, temperature: float
) -> tuple[Tensor, Tensor]:
    logits_TV = logits_of(hidden_TH).float() / temperature
    log_normalizer_T = torch.logsumexp(logits_TV, dim=-1)
    target_T = logits_TV.gather(-1, targets_T[:, None]).squeeze(-1)
    probs_TV = torch.softmax(logits_TV, dim=-1)
    entropy_T = log_normalizer_T - (probs_TV * logits_TV).sum(-1)
    return target_T - log_normalizer_T, entropy_T


def token_scores(
    hidden_TH: Tensor, targets_T: Tensor, logits_of: LogitsOf, vocabulary: int, temperature: float = 1.0
) -> TokenScores:
    """Score `targets_T` under the distributions that `hidden_TH` stands for.

    The temperature divides the logits, so these are the log-probabilities tokens were really sampled with
    (arXiv 2403.17031, detail 8). Results are fp32.
    """
    chunk = max(1, CHUNK_ELEMENTS // vocabulary)
    logprobs, entropies = [], []
    for hidden_cH, targets_c in zip(hidden_TH.split(chunk), targets_T.split(chunk), strict=True):
        if torch.is_grad_enabled():
            pair = checkpoint(_score_chunk, hidden_cH, targets_c, logits_of, temperature, use_reentrant=False)
        else:
            pair = _score_chunk(hidden_cH, targets_c, logits_of, temperature)
        logprobs.append(pair[0])
        entropies.append(pair[1])
    return TokenScores(torch.cat(logprobs), torch.cat(entropies))
