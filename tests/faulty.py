"""Small stages of every kind, and ways to make them fail at any operation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import Base
from lorarlhf.errors import RunPaused
from lorarlhf.settings import PPOSettings, RewardSettings, SFTSettings
from lorarlhf.train.common import Studio
from lorarlhf.train.loop import Loop
from lorarlhf.train.ppo import PPOStage
from lorarlhf.train.reward import RewardStage
from lorarlhf.train.rollout import Roles
from lorarlhf.train.sft import SFTStage
from lorarlhf.train.team import Team
from lorarlhf.types import Demonstration, user
from tests.test_reward import planted, votes
from tests.test_sft import noisy

SMALL = {"batch_size": 4, "heldout_share": 0.4, "eval_every": 2, "learning_rate": 0.01, "micro_batch_tokens": 100}
PROMPTS = [[256, 10 + i, 20, 30 + 2 * i] + [40] * (i % 3) for i in range(6)]


class Notes:
    """A journal in memory."""

    def __init__(self) -> None:
        self.numbers: dict[tuple[int, str], float] = {}
        self.events: list[str] = []
        self.shown: list[tuple[int, int]] = []

    def metrics(self, step, metrics):
        self.numbers |= {(step, k): v for k, v in metrics.items() if not k.startswith("time/")}

    def event(self, step, text):
        self.events.append(f"{step}: {text}")

    def progress(self, step, total, metrics):
        self.shown.append((step, total))

    def heldout(self, step, answers):
        pass


def like_short(rows, budget):
    """Reward few high tokens: any fixed function of the answer does."""
    for _ in budget.cut([row.length for row in rows]):
        pass
    return torch.tensor([-sum(t > 128 for t in row.response) / 4 for row in rows])


def sft(base: Base, **changes: Any) -> SFTStage:
    bank = AdapterBank(base)
    noisy(bank, "sft")
    rows = [Demonstration(user(f"question {i}"), f"{i * i}") for i in range(12)]
    return SFTStage(Studio(base, bank, Team()), "sft", SFTSettings(**{**SMALL, "epochs": 4, **changes}), rows)


def reward(base: Base, **changes: Any) -> RewardStage:
    bank = AdapterBank(base)
    noisy(bank, "reward", head=True)
    settings = RewardSettings(**{**SMALL, "micro_batch_tokens": 130, "epochs": 3, **changes})
    return RewardStage(Studio(base, bank, Team()), "reward", settings, votes(planted(12)))


def ppo(base: Base, **changes: Any) -> PPOStage:
    bank = AdapterBank(base)
    noisy(bank, "reference")
    bank.freeze("reference")
    bank.copy("reference", "policy")
    noisy(bank, "value", head=True, seed=2)
    settings = PPOSettings(
        **{**SMALL, "steps": 3, "value_warmup_steps": 1, "max_new_tokens": 5, "mini_batches": 2, "rollout_rows": 3}
        | {"kl_control": "adaptive", "critic": "head", "answers_per_prompt": 1, "ppo_epochs": 1, **changes}
    )
    return PPOStage(Studio(base, bank, Team()), Roles(), settings, like_short, PROMPTS)


def rloo(base: Base, **changes: Any) -> PPOStage:
    stage = ppo(base, **{"critic": "none", "answers_per_prompt": 2, **changes})
    stage.studio.bank.delete("value")
    return stage


MAKERS: dict[str, Callable[..., Any]] = {"sft": sft, "reward": reward, "ppo": ppo}


def forget(stage: Any) -> None:
    """Give the base back as it was."""
    for name in list(stage.studio.bank.names):
        stage.studio.bank.delete(name)


def tensors_of(stage: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in stage.adapter().items()}


@contextmanager
def on_its_way(base: Base, make: Callable[..., Any], folder: Path, **extra: Any) -> Iterator[Loop]:
    """Make a fresh stage, as a new process would, and go back to what was saved."""
    stage = make(base, **extra.pop("changes", {}))
    loop = Loop(stage, Notes(), stage.studio.team, folder, extra.pop("every", 1), **extra)
    loop.restore()
    try:
        yield loop
    finally:
        forget(stage)


def finished(base: Base, make: Callable[..., Any], folder: Path, **extra: Any) -> tuple[Any, dict, dict, list[str]]:
    """Take a stage to its end → final numbers (None where it was paused), all numbers, the adapter, events."""
    with on_its_way(base, make, folder, **extra) as loop:
        try:
            final = loop.run()
        except RunPaused:
            final = None
        return final, loop.journal.numbers, tensors_of(loop.stage), loop.journal.events


class Failing(TorchDispatchMode):
    """Raise at the n-th operation of the tensors."""

    def __init__(self, at: int, error: Callable[[], BaseException]) -> None:
        super().__init__()
        self.at, self.error, self.seen = at, error, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        if self.seen == self.at:
            raise self.error()
        return func(*args, **(kwargs or {}))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Places(TorchDispatchMode):
    """Number the first operation of every place in the code: of each operation with the lines that led to it."""

    CODE = ("lorarlhf", "transformers", "peft", "bitsandbytes")

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.first = 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        place, frame = [str(func)], sys._getframe(1)
        while frame:
            if any(name in frame.f_code.co_filename for name in self.CODE):
                place.append((frame.f_code.co_filename, frame.f_lineno))
            frame = frame.f_back
        self.first.setdefault(tuple(place), self.seen)
        return func(*args, **(kwargs or {}))
