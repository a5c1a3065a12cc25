"""The reward model: a scalar per answer such that the preferred answer of a pair scores higher.

The loss of a pair is Bradley–Terry's (`algo.losses.bradley_terry`): clear votes with a margin that grows with
their strength, ties as half a vote each way, and for "both bad" additionally a push of both scores below 0. The
loss of a batch is its weighted sum over what a batch of its size weighs on average, so that its expectation is the
weighted mean over all pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lorarlhf.algo.intervals import wilson_interval
from lorarlhf.algo.losses import below_zero, bradley_terry
from lorarlhf.data.cutting import Budget, pair_tokens, steps_of
from lorarlhf.data.pairs import Pair
from lorarlhf.data.tokens import Row, collate
from lorarlhf.errors import TrainingError
from lorarlhf.forward import map_sequences, sequence_scores
from lorarlhf.settings import RewardSettings
from lorarlhf.train.common import OneAdapterStage, Studio, split_by_prompt
from lorarlhf.train.loop import Evaluation, Metrics
from lorarlhf.train.optim import Group, Optimizer
from lorarlhf.train.order import batch_at
from lorarlhf.types import Demonstration, Outcome

SCALES = tuple(2.0 ** (k / 2) for k in range(-12, 9))
"""Factors tried on scores to find the best: from a 64th to sixteen."""


class PairRows(NamedTuple):
    """A pair as token rows."""

    pair: Pair
    chosen: Row
    rejected: Row


class RewardStage(OneAdapterStage):
    """One adapter with a scalar head, trained on pairs."""

    def __init__(
        self,
        studio: Studio,
        adapter: str,
        settings: RewardSettings,
        pairs: Sequence[Pair],
        anchors: Sequence[Demonstration] = (),
    ) -> None:
        """Prepare training on `pairs`; afterwards the mean score of `anchors` (else of chosen answers) becomes 0."""
        self.studio, self.trained, self.settings = studio, adapter, settings
        split = split_by_prompt(pairs, settings.heldout_share)
        if not any(not pair.tie for pair in split.train):
            raise TrainingError("no votes for either answer to learn from; rate some pairs or import comparisons first")
        self.pairs = [self._encode(pair) for pair in split.train]
        self.heldout = [self._encode(pair) for pair in split.heldout]
        self.anchors = [studio.row(d.prompt, d.response, settings.max_length) for d in anchors]
        self.mean_weight = sum(self._weight(pair) for pair in split.train) / len(split.train)
        self.total = steps_of(settings.epochs, settings.batch_size, len(self.pairs))
        self.eval_every = settings.eval_every
        group = Group(adapter, studio.bank.parameters(adapter), settings.learning_rate)
        self.optimizer = Optimizer([group], settings, studio.team)
        self.budget = Budget(settings.micro_batch_tokens)

    def _encode(self, pair: Pair) -> PairRows:
        room = self.settings.max_length
        chosen = self.studio.row(pair.prompt, pair.chosen, room)
        return PairRows(pair, chosen, self.studio.row(pair.prompt, pair.rejected, room))

    # -- learning ---------------------------------------------------------------------------------------------

    def step(self, index: int) -> Metrics:
        """Take one gradient step on `batch_size` pairs."""
        chosen = batch_at(index, self.settings.batch_size, len(self.pairs), self.settings.seed)
        pairs = [self.pairs[i] for i in chosen]
        # Not the weights of this batch: a batch of ties alone, or of one ranking, would count as much as one of votes.
        weight = len(pairs) * self.mean_weight
        loss, right = self._accumulate(self.studio.team.share(pairs), weight)
        clear = sum(not p.pair.tie for p in pairs)
        metrics = {"loss/reward": loss, "train/accuracy": right / max(1, clear)}
        return metrics | self.optimizer.step(index, self.total)

    def _accumulate(self, pairs: list[PairRows], weight: float) -> tuple[float, float]:
        """Add up the gradients of this process's pairs → loss of the batch, clear pairs in the right order."""
        base, team = self.studio.base, self.studio.team
        total = torch.zeros(2, device=base.device)
        lengths = [self._size(p) for p in pairs]
        with self.studio.training(self.settings.gradient_checkpointing), self.studio.bank.activate(self.trained):
            for group in self.budget.cut(lengths, padded=not base.packs):
                some = [pairs[i] for i in group]
                batch = collate([p.chosen for p in some] + [p.rejected for p in some], base.pad_id, base.device)
                chosen_P, rejected_P = sequence_scores(base, self.head, batch).chunk(2)
                loss = (self._losses(some, chosen_P, rejected_P)).sum() / weight
                loss.backward()
                tie_P = torch.tensor([p.pair.tie for p in some], device=base.device)
                total += torch.stack([loss.detach(), ((chosen_P > rejected_P) & ~tie_P).sum()])
        loss_sum, right = team.sum(total).tolist()
        return loss_sum, right

    def _size(self, pair: PairRows) -> int:
        """Count the tokens of a pair as the budget does."""
        shared = len(pair.chosen.prompt) if pair.chosen.prompt == pair.rejected.prompt else 0
        return pair_tokens((pair.chosen.length, pair.rejected.length), shared, padded=not self.studio.base.packs)

    @property
    def head(self) -> torch.nn.Linear:
        """The scalar head of the adapter being trained."""
        return self.studio.bank.heads[self.trained]

    def _weight(self, pair: Pair) -> float:
        return pair.weight * (self.settings.tie_weight if pair.tie else 1.0)

    def _losses(self, pairs: list[PairRows], chosen_P: Tensor, rejected_P: Tensor) -> Tensor:
        """Return the weighted loss of each pair → [P]."""

        def of_pairs(value: Callable[[Pair], float]) -> Tensor:
            return torch.tensor([value(p.pair) for p in pairs], device=chosen_P.device)

        margin_P = of_pairs(lambda pair: self.settings.margin * (pair.strength - 1))
        tie_P = of_pairs(lambda pair: pair.tie).bool()
        bad_P = of_pairs(lambda pair: pair.weight * self.settings.both_bad_weight * pair.both_bad)
        ordering_P = of_pairs(self._weight) * bradley_terry(chosen_P, rejected_P, margin_P, tie_P)
        return ordering_P + bad_P * (below_zero(chosen_P) + below_zero(rejected_P))

    # -- measuring --------------------------------------------------------------------------------------------

    def scores(self, rows: list[Row]) -> Tensor:
        """Score rows with the adapter as it is → [B] on the CPU."""
        base, team = self.studio.base, self.studio.team
        with self.studio.bank.activate(self.trained):
            mine = map_sequences(
                base,
                team.share(rows),
                self.budget,
                lambda batch: sequence_scores(base, self.head, batch),
            )
        return torch.tensor(team.gather(mine.tolist()))

    def evaluate(self) -> Evaluation | None:
        """Measure accuracy and loss on the votes of held-out prompts."""
        if not any(not p.pair.tie for p in self.heldout):
            return None
        chosen_P, rejected_P = self._heldout_scores()
        return Evaluation(self._compare(chosen_P, rejected_P), -self._loss_at_best_scale(chosen_P, rejected_P))

    def measure(self) -> Metrics:
        """Compare scores with the held-out votes: loss, accuracy of clear votes with 95 % interval, per criterion."""
        return self._compare(*self._heldout_scores())

    def _heldout_scores(self) -> tuple[Tensor, Tensor]:
        scores_B = self.scores([row for p in self.heldout for row in (p.chosen, p.rejected)])
        return scores_B[0::2], scores_B[1::2]

    def _loss_at_best_scale(self, chosen_P: Tensor, rejected_P: Tensor) -> float:
        """Return the held-out loss that the scores would have if they were all larger or smaller by one factor.

        The best adapter is chosen by it. The plain loss punishes a model that is right but too sure of it so hard that
        an untrained one, which is sure of nothing, can win; a wrong scale is no more than another price of KL.
        """
        scaled = (self._losses(self.heldout, k * chosen_P, k * rejected_P).sum() for k in SCALES)
        return float(min(scaled)) / sum(self._weight(p.pair) for p in self.heldout)

    def _compare(self, chosen_P: Tensor, rejected_P: Tensor) -> Metrics:
        weight = sum(self._weight(p.pair) for p in self.heldout)
        losses_P = self._losses(self.heldout, chosen_P, rejected_P)
        right = [bool(c > r) for p, c, r in zip(self.heldout, chosen_P, rejected_P, strict=True) if not p.pair.tie]
        low, high = wilson_interval(sum(right), len(right))
        metrics = {
            "eval/loss": float(losses_P.sum()) / weight,
            "eval/accuracy": sum(right) / len(right),
            "eval/accuracy_low": low,
            "eval/accuracy_high": high,
            "eval/votes": float(len(right)),
        }
        return metrics | self._by_criterion(chosen_P, rejected_P)

    def _by_criterion(self, chosen_P: Tensor, rejected_P: Tensor) -> Metrics:
        hits: dict[str, list[bool]] = {}
        for rows, c, r in zip(self.heldout, chosen_P, rejected_P, strict=True):
            for name, outcome in rows.pair.criteria:
                if outcome in (Outcome.A, Outcome.B):
                    hits.setdefault(name, []).append(bool((c > r) == (outcome is Outcome.A)))
        return {f"eval/accuracy/{name}": sum(found) / len(found) for name, found in sorted(hits.items())}

    def finish(self) -> Metrics:
        """Shift the scores so that demonstrations average 0, and measure the chosen adapter once more."""
        metrics = {"data/train": float(len(self.pairs)), "data/heldout": float(len(self.heldout))}
        if self.settings.center:
            anchors = self.anchors or [p.chosen for p in self.pairs if not p.pair.tie]
            shift = float(self.scores(anchors).mean())
            with torch.no_grad():
                self.head.bias.sub_(shift)
            metrics["score/shift"] = shift
        if any(not p.pair.tie for p in self.heldout):
            metrics |= self.measure()
        return metrics
