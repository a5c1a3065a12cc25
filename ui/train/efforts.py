"""Quick, Balanced, Thorough: how long a stage may take, in place of passes and steps. Knows no Gradio."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lorarlhf.settings import STAGES
from lorarlhf.ui.desk import Desk

EFFORTS = {"quick": "Quick", "balanced": "Balanced", "thorough": "Thorough"}
USUAL = "balanced"
STEPS = {"quick": 0.4, "balanced": 1.0, "thorough": 2.5}
"""PPO's steps, in those that are usual for the base."""
LENGTH = {"sft": "epochs", "reward": "epochs", "ppo": "steps"}
"""The setting that says how long a stage takes; empty in the form, it is what the effort makes it."""


def efforts_of(stage: str) -> list[str]:
    """List the efforts a stage knows: passes over data end by themselves, so that none is more thorough than that."""
    return list(EFFORTS) if stage == "ppo" else ["quick", "balanced"]


def length_of(stage: str, effort: str | None, start: Mapping[str, Any]) -> Any:
    """Say how long a stage takes, as the value of `LENGTH`; `start` holds the settings that are usual for the base."""
    usual = start[LENGTH[stage]]
    if stage != "ppo":
        return 1.0 if effort == "quick" else usual
    rest = (start["value_warmup_steps"] if start["critic"] != "none" else 0) + 1
    return max(rest, round(usual * STEPS[effort or USUAL]))


def defaults(desk: Desk, stage: str) -> dict[str, Any]:
    """Give what a fresh form shows: the declared defaults under those that suit this base."""
    return {name: field.default for name, field in STAGES[stage].model_fields.items()} | desk.defaults(stage)
