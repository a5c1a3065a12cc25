"""Supervised fine-tuning: raise the probability of demonstrated answers. Prompt tokens never enter the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lorarlhf.data.cutting import Budget, steps_of
from lorarlhf.data.tokens import Row
from lorarlhf.errors import TrainingError
from lorarlhf.forward import batches, map_tokens, response_logprobs
from lorarlhf.settings import SFTSettings
from lorarlhf.train.common import OneAdapterStage, Studio, split_by_prompt
from lorarlhf.train.loop import Evaluation, Metrics
from lorarlhf.train.optim import Group, Optimizer
from lorarlhf.train.order import batch_at
from lorarlhf.types import Demonstration


class SFTStage(OneAdapterStage):
    """One adapter, the negative log-likelihood of response tokens, averaged over the tokens of a batch."""

    def __init__(
        self, studio: Studio, adapter: str, settings: SFTSettings, demonstrations: Sequence[Demonstration]
    ) -> None:
        self.studio, self.trained, self.settings = studio, adapter, settings
        split = split_by_prompt(demonstrations, settings.heldout_share)
        if not split.train:
            raise TrainingError("no demonstrations to learn from; import some or write better answers while rating")
        self.rows = [studio.row(d.prompt, d.response, settings.max_length) for d in split.train]
        self.heldout = [studio.row(d.prompt, d.response, settings.max_length) for d in split.heldout]
        self.total = steps_of(settings.epochs, settings.batch_size, len(self.rows))
        self.eval_every = settings.eval_every
        group = Group(adapter, studio.bank.parameters(adapter), settings.learning_rate)
        self.optimizer = Optimizer([group], settings, studio.team)
        self.budget = Budget(settings.micro_batch_tokens)

    def step(self, index: int) -> Metrics:
        """Take one gradient step on `batch_size` demonstrations."""
        rows = [self.rows[i] for i in batch_at(index, self.settings.batch_size, len(self.rows), self.settings.seed)]
        tokens = sum(len(row.response) for row in rows)
        loss = self._accumulate(self.studio.team.share(rows), tokens)
        return {"loss/sft": loss, **self.optimizer.step(index, self.total)}

    def _accumulate(self, rows: list[Row], tokens: int) -> float:
        """Add up the gradients of this process's rows → the batch's loss per token."""
        base, bank, team = self.studio.base, self.studio.bank, self.studio.team
        total = torch.zeros((), device=base.device)
        with self.studio.training(self.settings.gradient_checkpointing), bank.activate(self.trained):
            for _, batch in batches(base, rows, self.budget):
                loss = -response_logprobs(base, batch).logprobs_T.sum() / tokens
                loss.backward()
                total += loss.detach()
        return float(team.sum(total))

    def evaluate(self) -> Evaluation | None:
        """Measure the loss per token on held-out prompts."""
        if not self.heldout:
            return None
        loss = self.heldout_loss()
        return Evaluation({"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 50))}, -loss)

    def heldout_loss(self) -> float:
        """Return the negative log-likelihood per held-out response token, in nats."""
        base, team = self.studio.base, self.studio.team
        with self.studio.bank.activate(self.trained):
            mine = map_tokens(
                base,
                team.share(self.heldout),
                self.budget,
                lambda batch: response_logprobs(base, batch).logprobs_T,
            )
        # A process without rows must still add a float: sums over processes need one format.
        total = team.sum(torch.tensor(sum((float(row.sum()) for row in mine), 0.0), device=base.device))
        return -float(total) / sum(len(row.response) for row in self.heldout)

    def finish(self) -> Metrics:
        """Measure the chosen adapter once more."""
        sizes = {"data/train": float(len(self.rows)), "data/heldout": float(len(self.heldout))}
        return sizes | ({"eval/loss": self.heldout_loss()} if self.heldout else {})
