"""Answers drawn to measure an adapter: to which prompts, how, and how far that is.

They are drawn as PPO draws them (the adapter's temperature and length, no nucleus), so that KL is that of its training.
What an answer is depends on its own prompt alone, not on which others are asked: those of the measurement before serve
for all prompts that it has, so that a new vote draws nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lorarlhf.data.chat import encode_prompt
from lorarlhf.data.cutting import Budget
from lorarlhf.data.practice import practice_rows, prompts_in
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
    return sorted(prompts_in(practice_rows(engine.store, PPOSettings().sources)), key=prompt_key)


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
) -> tuple[list[Row], list[Completion]]:
    """Have an adapter answer prompts n times each → rows of tokens, and the answers."""
    encoded = [ids for prompt in prompts for ids in [asked_ids(engine, prompt, sampling)] * n]
    streams = [int(prompt_key(prompt)[:15], 16) + i for prompt in prompts for i in range(n)]
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


Known = Mapping[str, dict[str, Any]]
"""Answers by the key of their prompt, with what no vote changes."""
NO_ANSWERS = ("prompts", "reward", "votes")
"""Conditions of a measurement that what each of its answers is does not depend on."""


def known_answers(before: Mapping[str, Any], made_with: Mapping[str, Any], rows: str) -> Known:
    """Give those rows of the measurement before, where answers would be drawn alike now; none where not."""
    then = before.get("with", {})
    if any(then.get(name) != value for name, value in made_with.items() if name not in NO_ANSWERS):
        return {}
    return dict(zip(then["prompts"], before[rows], strict=True))


def unknown(prompts: Sequence[Prompt], known: Known) -> list[Prompt]:
    """List the prompts whose answers are not known yet."""
    return [prompt for prompt in prompts if prompt_key(prompt) not in known]


def with_known(prompts: Sequence[Prompt], known: Known, draw: Callable[[list[Prompt]], Known]) -> list[dict[str, Any]]:
    """Draw the answers that are not known yet → those to all prompts, in their order."""
    new = unknown(prompts, known)
    found = {**known, **(draw(new) if new else {})}
    return [found[prompt_key(prompt)] for prompt in prompts]


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
