"""Give each stage its adapters and its data. Knows the workspace, no algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lorarlhf.data.chat import encode_prompt
from lorarlhf.data.cutting import ANCHORS
from lorarlhf.data.pairs import votes_of
from lorarlhf.data.practice import unique
from lorarlhf.engine.core import Engine
from lorarlhf.errors import AdapterError
from lorarlhf.forward import context_of
from lorarlhf.library import BARE
from lorarlhf.settings import LoraSettings, PPOSettings, RewardSettings, Settings, SFTSettings
from lorarlhf.store.codec import prompt_of
from lorarlhf.train.common import Encoded, encode_all, split_by_prompt
from lorarlhf.train.loop import Stage
from lorarlhf.train.ppo import PPOStage
from lorarlhf.train.reward import RewardStage
from lorarlhf.train.rollout import RewardScorer, Roles
from lorarlhf.train.sft import SFTStage
from lorarlhf.types import Prompt

Parents = dict[str, str]
Data = dict[str, list[int]]


def build_stage(engine: Engine, stage: str, settings: Settings, parents: Parents, data: Data) -> Stage:
    """Make a stage ready for its first step; raise `LoraRlhfError` when data or adapters do not do."""
    builders: dict[str, Callable[..., Stage]] = {"sft": _sft, "reward": _reward, "ppo": _ppo}
    rows = {kind: _rows(engine, kind, ids) for kind, ids in data.items()}
    return builders[stage](engine, settings, parents, rows)


def _rows(engine: Engine, kind: str, ids: list[int]) -> list[Any]:
    """Fetch rows by id, also those undone since: a run goes on with the data it began with."""
    by_id = {row.id: row.value for row in engine.store.history(kind)}
    return [by_id[i] for i in ids]


def _start(engine: Engine, name: str, parent: str, settings: LoraSettings, seed: int, *, head: bool = False) -> None:
    """Put a trainable adapter into memory: new on the bare base, else a copy of its parent."""
    if parent == BARE:
        engine.bank.create(name, settings, head=head, seed=seed)
        return
    engine.bank.load(name, engine.saved(parent).path)
    if head and name not in engine.bank.heads:
        engine.bank.add_head(name, seed)
    if not head:
        engine.bank.heads.pop(name, None)


def _sft(engine: Engine, settings: SFTSettings, parents: Parents, rows: dict[str, list[Any]]) -> Stage:
    _start(engine, "sft", parents["parent"], settings, settings.seed)
    return SFTStage(engine.studio, "sft", settings, rows["demonstrations"])


def _reward(engine: Engine, settings: RewardSettings, parents: Parents, rows: dict[str, list[Any]]) -> Stage:
    _start(engine, "reward", parents["parent"], settings, settings.seed, head=True)
    votes = votes_of(rows["comparisons"], rows["rankings"])
    stage = RewardStage(engine.studio, "reward", settings, votes, rows["demonstrations"][:ANCHORS])
    stage.new_head = parents["parent"] == BARE or not engine.saved(parents["parent"]).has_head
    return stage


def _ppo(engine: Engine, settings: PPOSettings, parents: Parents, rows: dict[str, list[Any]]) -> Stage:
    bank = engine.bank
    value = "value" if settings.critic == "adapter" else "reward"
    roles = Roles(reference=None if parents["sft"] == BARE else "reference", value=value)
    if roles.reference:
        bank.load(roles.reference, engine.saved(parents["sft"]).path, frozen=True)
    start = parents["parent"] if parents["parent"] != BARE else parents["sft"]
    _start(engine, roles.policy, start, settings, settings.seed)
    if not engine.saved(parents["reward"]).has_head:
        raise AdapterError(f"adapter {parents['reward']} is no reward model; name one with --reward")
    bank.load("reward", engine.saved(parents["reward"]).path, frozen=True)
    if settings.critic == "adapter":
        bank.copy("reward", roles.value)
    train, heldout = split_by_prompt(_prompts(rows), settings.heldout_share)
    scorer = RewardScorer(engine.studio, "reward")
    room = max(1, min(settings.max_length, context_of(engine.base)) - settings.max_new_tokens)

    def encoded(prompts: list[_Prompt]) -> Encoded:
        return encode_all(prompts, lambda p: encode_prompt(engine.base.tokenizer, p.prompt, room))

    asked, apart = encoded(train), encoded(heldout)
    stage = PPOStage(engine.studio, roles, settings, scorer, asked.rows, apart.rows)
    stage.left_out = Encoded(asked.rows + apart.rows, asked.refused + apart.refused).words("prompts")
    return stage


class _Prompt:
    """A prompt by itself, in the shape of other examples."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt


def _prompts(rows: dict[str, list[Any]]) -> list[_Prompt]:
    return [_Prompt(prompt) for prompt in unique(prompt_of(value) for kind in rows for value in rows[kind])]
