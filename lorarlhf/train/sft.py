"""Supervised fine-tuning: raise the probability of demonstrated answers. Prompt tokens never enter the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from lorarlhf.data.cutting import Budget
from lorarlhf.data.tokens import Row
from lorarlhf.errors import TrainingError
from lorarlhf.forward import batches, map_tokens, response_logprobs
from lorarlhf.settings import SFTSettings
from lorarlhf.train.common import TRIED, Encoded, OneAdapterStage, Studio, encode_all, split_by_prompt
from lorarlhf.train.loop import Evaluation, Metrics
from lorarlhf.train.order import batch_at
from lorarlhf.types import Demonstration


class SFTStage(OneAdapterStage):
    """One adapter, the negative log-likelihood of response tokens, averaged over the tokens of a batch."""

    settings: SFTSettings

    def __init__(
        self, studio: Studio, adapter: str, settings: SFTSettings, demonstrations: Sequence[Demonstration]
    ) -> None:
        self.studio, self.trained, self.settings = studio, adapter, settings
        split = split_by_prompt(demonstrations, settings.heldout_share)
        if not split.train:
            raise TrainingError("no demonstrations to learn from; import some or write better answers while rating")
        train, heldout = (
            encode_all(part, lambda d: studio.row(d.prompt, d.response, settings.max_length)) for part in split
        )
        self.rows, self.heldout = train.rows, heldout.rows
        self.left_out = Encoded(train.rows + heldout.rows, train.refused + heldout.refused).words("demonstrations")
        if not self.rows:
            raise TrainingError(f"no demonstrations to learn from; {self.left_out[0]}")
        self.budget = Budget(settings.micro_batch_tokens)
        self.plan_steps(len(self.rows))

    def step(self, index: int) -> Metrics:
        """Take one gradient step on `batch_size` demonstrations."""
        rows = [self.rows[i] for i in batch_at(index, self.settings.batch_size, len(self.rows), self.settings.seed)]
        tokens = sum(len(row.response) for row in rows)
        loss = self._accumulate(self.studio.team.share(rows), tokens)
        return {"loss/sft": loss, **self.update(index)}

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
        losses = self.losses(self.heldout)
        loss = sum(losses) / len(losses)
        metrics = {"eval/loss": loss, "eval/perplexity": math.exp(min(loss, 50))}
        return Evaluation(metrics, -loss, [-each for each in losses])

    def losses(self, rows: list[Row]) -> list[float]:
        """Return the negative log-likelihood of each answer over what answers have tokens on average, in nats.

        Their mean is the loss per token.
        """
        base, team = self.studio.base, self.studio.team
        with self.studio.bank.activate(self.trained):
            mine = map_tokens(
                base, team.share(rows), self.budget, lambda batch: response_logprobs(base, batch).logprobs_T
            )
        sums = team.gather([float(row.sum()) for row in mine])
        length = sum(len(row.response) for row in rows) / len(rows)
        return [-total / length for total in sums]

    def trial_losses(self, used: int) -> list[float]:
        """Measure each of some demonstrations that the first `used` steps have not seen."""
        rows = [self.rows[i] for i in self.unseen(used)] + self.heldout[:TRIED]
        return self.losses(rows) if rows else []

    def finish(self) -> Metrics:
        """Measure the chosen adapter once more."""
        sizes = {"data/train": float(len(self.rows)), "data/heldout": float(len(self.heldout))}
        measured = self.evaluate()
        return sizes | (measured.metrics if measured else {})
