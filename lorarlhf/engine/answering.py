"""Answers drawn to measure an adapter: to which prompts, how, and how far that is.

They are drawn as PPO draws them (the adapter's temperature and length, no nucleus), so that KL is that of its training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lorarlhf.data.chat import encode_prompt
from lorarlhf.data.cutting import Budget, practised_on
from lorarlhf.data.tokens import Row
from lorarlhf.engine.core import Engine
from lorarlhf.errors import DataError
from lorarlhf.evaluate.health import judge_of
from lorarlhf.forward import context_of
from lorarlhf.library import SavedAdapter
from lorarlhf.sampling import Completion, complete
from lorarlhf.settings import PPOSettings, SamplingSettings
from lorarlhf.types import Prompt, is_heldout, prompt_key

TOKENS = 2048
"""Of a forward pass."""
NO_HELDOUT = "No prompts were kept apart: these were also practised on, so the figures may flatter"

OnDone = Callable[[int, int], object]


@dataclass
class Count:
    """How far a job is, told whenever it can be stopped."""

    total: int
    tell: OnDone
    done: int = 0

    def breathe(self) -> None:
        """Tell again, so that the job can be stopped here."""
        self.tell(self.done, self.total)

    def add(self, some: int) -> None:
        """Count what was done."""
        self.done += some
        self.breathe()

    @property
    def budget(self) -> Budget:
        """A budget whose passes can be stopped."""
        return Budget(TOKENS, breathe=self.breathe)


def drawing(saved: SavedAdapter | None, room: int | None, seed: int) -> SamplingSettings:
    """Say how answers are drawn: as the adapter was trained to, up to `room` tokens where that is given."""
    own = saved.card.get("settings", {}) if saved else {}
    known = {name: own[name] for name in ("temperature", "max_new_tokens") if name in own}
    return SamplingSettings.parse({**known, **({"max_new_tokens": room} if room else {}), "seed": seed}, "sampling")


def known_prompts(engine: Engine) -> list[Prompt]:
    """List the prompts PPO practises on and is measured with, always in the same order."""
    store = engine.store
    kinds = ("comparisons", "rankings", "demonstrations")
    said = [row.value.prompt for kind in kinds for row in getattr(store, kind)()]
    there = {prompt_key(p): p for p in practised_on([row.value for row in store.prompts()], said)}
    return [prompt for _, prompt in sorted(there.items())]


def heldout_prompts(engine: Engine, saved: SavedAdapter | None, most: int, caveats: list[str]) -> list[Prompt]:
    """Choose prompts that were kept apart; adds a caveat where there are none, and takes others."""
    share = float((saved.card if saved else {}).get("settings", {}).get("heldout_share", PPOSettings().heldout_share))
    prompts = known_prompts(engine)
    if not prompts:
        raise DataError("no prompts to answer; import some with `lorarlhf import FILE --as prompts`")
    kept = [prompt for prompt in prompts if is_heldout(prompt, share)]
    if not kept:
        caveats.append(NO_HELDOUT)
    return (kept or prompts)[:most]


def drawn_rows(
    engine: Engine,
    prompts: Sequence[Prompt],
    n: int,
    name: str,
    sampling: SamplingSettings,
    count: Count,
    streams: Sequence[int] | None = None,
) -> tuple[list[Row], list[Completion]]:
    """Have an adapter answer prompts n times each → rows of tokens, and the answers.

    `streams` numbers the random stream of each answer, by default by its position.
    """
    encoded = [ids for prompt in prompts for ids in [asked_ids(engine, prompt, sampling)] * n]
    with engine.borrowed(name) as adapter, engine.bank.drawing(adapter):
        drawn = complete(engine.base, encoded, sampling, streams=streams, on_step=lambda tokens: count.breathe())
    count.add(len(drawn))
    return [Row(ids, c.tokens) for ids, c in zip(encoded, drawn, strict=True)], drawn


def asked_ids(engine: Engine, prompt: Prompt, sampling: SamplingSettings) -> list[int]:
    """Encode a prompt so that its answer finds room."""
    return encode_prompt(engine.base.tokenizer, prompt, max(1, context_of(engine.base) - sampling.max_new_tokens))


def counted(score: float, ended: bool, unended: float) -> float:
    """Apply PPO's rule: an answer that never ended scores at most so much."""
    return score if ended else min(score, unended)


def conditions(
    engine: Engine,
    reference: SavedAdapter | None,
    reward: SavedAdapter | None,
    prompts: Sequence[Prompt],
    sampling: SamplingSettings,
) -> dict[str, Any]:
    """Describe all that decides what a measurement comes to."""
    votes = [[row.id for row in rows] for rows in (engine.store.comparisons(), engine.store.rankings())]
    return {
        "reference": reference.hash if reference else "",
        "reward": judge_of(reward) if reward else "",
        "votes": [[len(ids), max(ids, default=0), sum(ids)] for ids in votes] if reward else [],
        "prompts": [prompt_key(prompt) for prompt in prompts],
        "sampling": sampling.model_dump(mode="json", exclude={"batch_rows"}),
    }
