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
from lorarlhf.algo.probe import fit_probe
from lorarlhf.data.cutting import Budget, vote_tokens
from lorarlhf.data.pairs import Pair, Vote
from lorarlhf.data.tokens import Row, collate
from lorarlhf.errors import TrainingError
from lorarlhf.forward import last_states, map_sequences, sequence_scores
from lorarlhf.settings import RewardSettings
from lorarlhf.train.common import TRIED, Encoded, OneAdapterStage, Studio, encode_all, split_by_prompt
from lorarlhf.train.loop import Evaluation, Metrics
from lorarlhf.train.order import batch_at
from lorarlhf.types import Demonstration, Outcome

SCALES = tuple(2.0 ** (k / 2) for k in range(-12, 9))
"""Factors tried on scores to find the best: from a 64th to sixteen."""
PROBED = 4096
"""Votes a head alone is fitted to at most."""


class VoteRows(NamedTuple):
    """A vote as token rows: every answer once, all behind the same prompt."""

    vote: Vote
    rows: list[Row]
    order: list[tuple[int, int]]
    """Per pair of the vote the rows of the chosen and of the rejected answer."""


class RewardStage(OneAdapterStage):
    """One adapter with a scalar head, trained on votes."""

    settings: RewardSettings
    new_head = True
    """Whether the head has learned nothing yet; one of a parent that is a reward model goes on as it is."""

    def __init__(
        self,
        studio: Studio,
        adapter: str,
        settings: RewardSettings,
        votes: Sequence[Vote],
        anchors: Sequence[Demonstration] = (),
    ) -> None:
        """Prepare training on `votes`; the mean score of `anchors` (else of chosen answers) becomes 0."""
        self.studio, self.trained, self.settings = studio, adapter, settings
        split = split_by_prompt(votes, settings.heldout_share)
        if not any(vote.clear for vote in split.train):
            raise TrainingError("no votes for either answer to learn from; rate some pairs or import comparisons first")
        train, heldout = encode_all(split.train, self._encode), encode_all(split.heldout, self._encode)
        self.votes, self.heldout = ([vote for vote in part.rows if vote.vote.pairs] for part in (train, heldout))
        self.anchors = encode_all(anchors, lambda d: studio.row(d.prompt, d.response, settings.max_length)).rows
        self.left_out = self._words_left_out(Encoded(train.rows + heldout.rows, train.refused + heldout.refused))
        if not any(vote.vote.clear for vote in self.votes):
            raise TrainingError(f"no votes for either answer to learn from; {'; '.join(self.left_out)}")
        weights = [self._weight(pair) for vote in self.votes for pair in vote.vote.pairs]
        self.mean_weight = sum(weights) / len(self.votes)
        self.budget = Budget(settings.micro_batch_tokens)
        self.plan_steps(len(self.votes))

    def _encode(self, vote: Vote) -> VoteRows:
        """Encode a vote; pairs whose answers are the same tokens, cut or as they are, teach nothing and are dropped."""
        texts = vote.answers
        rows = self.studio.rows(vote.prompt, texts, self.settings.max_length)
        order = [(texts.index(pair.chosen), texts.index(pair.rejected)) for pair in vote.pairs]
        kept = [k for k, (i, j) in enumerate(order) if rows[i].response != rows[j].response]
        return VoteRows(Vote(tuple(vote.pairs[k] for k in kept)), rows, [order[k] for k in kept])

    def _words_left_out(self, found: Encoded) -> list[str]:
        said, room = found.words("votes"), self.settings.max_length
        same = sum(not vote.vote.pairs for vote in found.rows)
        if same:
            said.append(
                f"left out {same} of {len(found.rows)} votes: both answers are the same within max_length {room}"
            )
        cut = sum(
            row.length >= room and row.response[-1] != self.studio.base.eos_id for v in found.rows for row in v.rows
        )
        if cut:
            said.append(f"{cut} answers are longer than max_length {room} leaves room for: their ends are cut off")
        return said

    # -- before the first step --------------------------------------------------------------------------------

    def prepare(self) -> list[str]:
        """Fit the head alone, centre the scores, and try a few learning rates → what was found, in words.

        A head fitted to the states as they are (linear probing, then fine-tuning: arXiv 2202.10054) begins where
        those states already tell the answers apart, and its gradients do not distort them first.
        """
        if self.new_head:
            self._fit_head()
        self._centre()
        return super().prepare()

    def _fit_head(self) -> None:
        votes = self.votes[-PROBED:]
        states_NH = self._states([row for vote in votes for row in vote.rows])
        pairs, differences, groups, start = [], [], [], 0
        for number, vote in enumerate(votes):
            for pair, (chosen, rejected) in zip(vote.vote.pairs, vote.order, strict=True):
                pairs.append(pair)
                differences.append(states_NH[start + chosen] - states_NH[start + rejected])
                groups.append(number)
            start += len(vote.rows)
        target_P = torch.tensor([0.5 if pair.tie else 1.0 for pair in pairs])
        weight_P = torch.tensor([self._weight(pair) for pair in pairs])
        weight_H = fit_probe(torch.stack(differences), target_P, weight_P, groups)
        with torch.no_grad():
            self.head.weight.copy_(weight_H[None])

    def _states(self, rows: list[Row]) -> Tensor:
        team = self.studio.team
        with self.studio.bank.activate(self.trained):
            mine = last_states(self.studio.base, team.share(rows), self.budget)
        return torch.tensor(team.gather(mine.tolist())) if team.size > 1 else mine

    def _centre(self) -> float:
        """Shift the scores so that those of the anchors average 0 → by how much."""
        chosen = [
            v.rows[i] for v in self.votes for pair, (i, _) in zip(v.vote.pairs, v.order, strict=True) if not pair.tie
        ]
        shift = float(self.scores(self.anchors or chosen).mean())
        with torch.no_grad():
            self.head.bias.sub_(shift)
        return shift

    # -- learning ---------------------------------------------------------------------------------------------

    def step(self, index: int) -> Metrics:
        """Take one gradient step on `batch_size` votes."""
        chosen = batch_at(index, self.settings.batch_size, len(self.votes), self.settings.seed)
        votes = [self.votes[i] for i in chosen]
        # Not the weights of this batch: a batch of ties alone would count as much as one of clear votes.
        weight = len(votes) * self.mean_weight
        loss, right = self._accumulate(self.studio.team.share(votes), weight)
        clear = sum(vote.vote.clear for vote in votes)
        metrics = {"loss/reward": loss, "train/accuracy": right / max(1, clear)}
        return metrics | self.update(index)

    def _accumulate(self, votes: list[VoteRows], weight: float) -> tuple[float, float]:
        """Add up the gradients of this process's votes → loss of the batch, clear votes in the right order."""
        base, team = self.studio.base, self.studio.team
        total = torch.zeros(2, device=base.device)
        lengths = [self._size(vote) for vote in votes]
        with self.studio.training(self.settings.gradient_checkpointing), self.studio.bank.activate(self.trained):
            for group in self.budget.cut(lengths, padded=not base.packs):
                some = [votes[i] for i in group]
                batch = collate([row for vote in some for row in vote.rows], base.pad_id, base.device)
                scores_B = sequence_scores(base, self.head, batch)
                loss = self._losses(some, scores_B).sum() / weight
                loss.backward()
                right = sum(self._right(some, scores_B.detach().cpu()))
                total += torch.tensor([float(loss.detach()), float(right)], device=base.device)
        loss_sum, right = team.sum(total).tolist()
        return loss_sum, right

    def _size(self, vote: VoteRows) -> int:
        """Count the tokens of a vote as the budget does."""
        lengths = [row.length for row in vote.rows]
        return vote_tokens(lengths, len(vote.rows[0].prompt), padded=not self.studio.base.packs)

    @property
    def head(self) -> torch.nn.Linear:
        """The scalar head of the adapter being trained."""
        return self.studio.bank.heads[self.trained]

    def _weight(self, pair: Pair) -> float:
        return pair.weight * (self.settings.tie_weight if pair.tie else 1.0)

    def _losses(self, votes: list[VoteRows], scores_B: Tensor) -> Tensor:
        """Return the weighted loss of each vote → [V], from the scores of all their rows."""
        pairs, chosen_P, rejected_P = _paired(votes, scores_B)

        def of_pairs(value: Callable[[Pair], float]) -> Tensor:
            return torch.tensor([value(pair) for pair in pairs], device=scores_B.device)

        margin_P = of_pairs(lambda pair: self.settings.margin * (pair.strength - 1))
        tie_P = of_pairs(lambda pair: pair.tie).bool()
        bad_P = of_pairs(lambda pair: pair.weight * self.settings.both_bad_weight * pair.both_bad)
        ordering_P = of_pairs(self._weight) * bradley_terry(chosen_P, rejected_P, margin_P, tie_P)
        losses_P = ordering_P + bad_P * (below_zero(chosen_P) + below_zero(rejected_P))
        return torch.stack([part.sum() for part in losses_P.split([len(vote.order) for vote in votes])])

    def _right(self, votes: list[VoteRows], scores_B: Tensor) -> list[float]:
        """Return the share of clear pairs in the right order, of each vote that has any; equal scores are half."""
        pairs, chosen_P, rejected_P = _paired(votes, scores_B)
        right_P = (chosen_P > rejected_P).float() + 0.5 * (chosen_P == rejected_P).float()
        found, start = [], 0
        for vote in votes:
            part = range(start, start + len(vote.order))
            if clear := [float(right_P[i]) for i in part if not pairs[i].tie]:
                found.append(sum(clear) / len(clear))
            start += len(vote.order)
        return found

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
        if not self.measurable:
            return None
        scores_B = self.scores([row for vote in self.heldout for row in vote.rows])
        losses = self.losses_at_best_scale(self.heldout, scores_B)
        return Evaluation(self._compare(scores_B), -sum(losses) / len(losses), [-loss for loss in losses])

    @property
    def measurable(self) -> bool:
        """Whether any held-out vote is for an answer."""
        return any(vote.vote.clear for vote in self.heldout)

    def losses_at_best_scale(self, votes: list[VoteRows], scores_B: Tensor) -> list[float]:
        """Return what each vote would lose if all scores were larger or smaller by the one factor that is best.

        Adapters and learning rates are chosen by it. The plain loss punishes a model that is right but too sure of it
        so hard that an untrained one, which is sure of nothing, can win; a wrong scale is only another price of KL.
        """
        scaled = (self._losses(votes, k * scores_B) for k in SCALES)
        best_V = min(scaled, key=lambda losses_V: float(losses_V.sum()))
        weight = sum(self._weight(pair) for vote in votes for pair in vote.vote.pairs) / len(votes)
        return (best_V / weight).tolist()

    def trial_losses(self, used: int) -> list[float]:
        """Measure each of some votes that the first `used` steps have not seen."""
        votes = [self.votes[i] for i in self.unseen(used)] + self.heldout[:TRIED]
        return (
            self.losses_at_best_scale(votes, self.scores([row for vote in votes for row in vote.rows])) if votes else []
        )

    def _compare(self, scores_B: Tensor) -> Metrics:
        weight = sum(self._weight(pair) for vote in self.heldout for pair in vote.vote.pairs)
        right = self._right(self.heldout, scores_B)
        low, high = wilson_interval(sum(right), len(right))
        metrics = {
            "eval/loss": float(self._losses(self.heldout, scores_B).sum()) / weight,
            "eval/accuracy": sum(right) / len(right),
            "eval/accuracy_low": low,
            "eval/accuracy_high": high,
            "eval/votes": float(len(right)),
        }
        return metrics | self._by_criterion(scores_B)

    def _by_criterion(self, scores_B: Tensor) -> Metrics:
        hits: dict[str, list[bool]] = {}
        for pair, c, r in zip(*_paired(self.heldout, scores_B), strict=True):
            for name, outcome in pair.criteria:
                if outcome in (Outcome.A, Outcome.B):
                    hits.setdefault(name, []).append(bool((c > r) == (outcome is Outcome.A)))
        return {f"eval/accuracy/{name}": sum(found) / len(found) for name, found in sorted(hits.items())}

    def finish(self) -> Metrics:
        """Centre the scores again, and measure the chosen adapter once more."""
        metrics = {"data/train": float(len(self.votes)), "data/heldout": float(len(self.heldout))}
        if self.settings.center:
            metrics["score/shift"] = self._centre()
        voted = self.scores([row for vote in self.votes[:TRIED] for row in vote.rows])
        metrics["score/spread"] = float(voted.std(unbiased=False))
        if self.measurable:
            metrics |= self._compare(self.scores([row for vote in self.heldout for row in vote.rows]))
        return metrics


def _paired(votes: list[VoteRows], scores_B: Tensor) -> tuple[list[Pair], Tensor, Tensor]:
    """Put the scores of all rows into pairs → the pairs, and the scores of their chosen and rejected answers [P]."""
    pairs: list[Pair] = []
    chosen, rejected, start = [], [], 0
    for vote in votes:
        pairs += vote.vote.pairs
        chosen += [start + i for i, _ in vote.order]
        rejected += [start + j for _, j in vote.order]
        start += len(vote.rows)
    return pairs, scores_B[torch.tensor(chosen)], scores_B[torch.tensor(rejected)]
