"""AdamW over named groups of parameters, with a schedule that is a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lorarlhf.settings import OptimSettings
from lorarlhf.train.team import Team


@dataclass
class Group:
    """Parameters that share a learning rate and a gradient norm."""

    name: str
    parameters: list[nn.Parameter]
    learning_rate: float
    first_step: int = 0
    """The step of its first update; its warm-up and decay are counted from there."""
    scheduled: bool = True
    """Whether the learning rate follows the schedule; a steered one changes by itself."""


def rate_factor(step: int, total: int, warmup: float, schedule: str) -> float:
    """Return the share of the peak learning rate to use at `step` of `total`, both from 0.

    Linear growth over the first `warmup` share, then constant, or linear or cosine decay that would reach 0 just
    after the last step.
    """
    warm_steps = math.ceil(warmup * total)
    if step < warm_steps:
        return (step + 1) / warm_steps
    progress = (step - warm_steps) / max(1, total - warm_steps)
    if schedule == "linear":
        return 1 - progress
    return 0.5 * (1 + math.cos(math.pi * progress)) if schedule == "cosine" else 1.0


class Optimizer:
    """AdamW whose every number can be put into a checkpoint and taken out again."""

    def __init__(self, groups: Iterable[Group], settings: OptimSettings, team: Team, eps: float = 1e-8) -> None:
        self.groups = list(groups)
        self.settings = settings
        self.team = team
        self._adam = torch.optim.AdamW(
            [{"params": g.parameters, "lr": g.learning_rate} for g in self.groups],
            eps=eps,
            weight_decay=settings.weight_decay,
        )

    def step(self, index: int, total: int, only: str | None = None) -> dict[str, float]:
        """Sum gradients over the team, shorten them per group, update, forget them; return the norms before.

        `only` updates the one group of that name and drops the gradients of the others.
        """
        metrics = {}
        for group, slot in zip(self.groups, self._adam.param_groups, strict=True):
            slot["lr"] = group.learning_rate * self._factor(group, index, total)
            metrics[f"lr/{group.name}"] = slot["lr"]
            if only not in (None, group.name):
                self._forget(group)
                continue
            self.team.sum_gradients(group.parameters)
            norm = nn.utils.clip_grad_norm_(group.parameters, self.settings.max_grad_norm)
            metrics[f"grad_norm/{group.name}"] = float(norm)
        self._adam.step()
        for group in self.groups:
            self._forget(group)
        return metrics

    def _factor(self, group: Group, index: int, total: int) -> float:
        if not group.scheduled or index < group.first_step:
            return 1.0
        steps = total - group.first_step
        return rate_factor(index - group.first_step, steps, self.settings.warmup, self.settings.schedule)

    def _forget(self, group: Group) -> None:
        for parameter in group.parameters:
            parameter.grad = None

    def state(self) -> dict[str, Tensor]:
        """Return first and second moments and step counts, by group and position."""
        found = {}
        for group in self.groups:
            for i, parameter in enumerate(group.parameters):
                for key, value in self._adam.state.get(parameter, {}).items():
                    found[f"{group.name}.{i}.{key}"] = torch.as_tensor(value)
        return found

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Go on with the moments `state` gave, without gradients."""
        for group in self.groups:
            self._forget(group)
            for i, parameter in enumerate(group.parameters):
                prefix = f"{group.name}.{i}."
                found = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
                self._adam.state.pop(parameter, None)
                if found:
                    # Adam keeps its step count on the CPU; the moments live with their parameter.
                    self._adam.state[parameter] = {
                        k: v.clone() if k == "step" else v.to(parameter.device).clone() for k, v in found.items()
                    }
