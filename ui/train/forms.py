"""Forms made of the declarations of settings: basic ones at once, advanced ones in a fold-out.

Names, help, bounds and defaults are those of the command line; nothing about a single setting is written down here.
"""

from __future__ import annotations

import math
import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo

from lorarlhf.errors import SettingsError
from lorarlhf.settings import STAGES, Settings, may_be_auto, several_of
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.live import GROWING

SHORT = {"kl": "KL", "sft": "SFT", "eos": "EOS", "ppo": "PPO", "lora": "LoRA"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
LARGEST_SHOWN = 999
"""A bound beyond it guards against slips of the pen, and says nothing to people."""


@dataclass(frozen=True)
class Form:
    """The fields of one stage."""

    stage: str
    name: gr.Textbox
    """Of the adapter to be."""
    fields: dict[str, Any]
    """One for every setting of the stage: a component, whose events Gradio adds only when it is imported."""
    adapters: Collection[str]
    """The settings among them that name an adapter."""

    def values(self, filled: Mapping[Component, Any]) -> dict[str, Any]:
        """Take what a person filled in; raise `SettingsError` for a basic field that was emptied.

        Fields of a fold or a form that was never opened all come empty as well, and mean their defaults.
        """
        found = {name: filled[field] for name, field in self.fields.items()}
        known = STAGES[self.stage].model_fields
        # What may be left to the program is a text, which a form never opened sends as it is.
        numbers = [name for name, field in known.items() if not may_be_auto(field)]
        found |= {
            name: None for name, field in known.items() if may_be_auto(field) and not str(found[name] or "").strip()
        }
        lists = [name for name, value in found.items() if isinstance(value, list)]
        basic = {name: found[name] for name in numbers if STAGES[self.stage].is_basic(name) and name not in lists}
        if not any(value is not None for value in basic.values()):
            found |= {name: found[name] or None for name in lists}
        emptied = [name for name, value in basic.items() if value is None]
        if emptied and len(emptied) < len(basic):
            raise SettingsError(f"{label(emptied[0])} is empty, or what was typed is no number; fill it in")
        found |= {name: ", ".join(value) for name, value in found.items() if isinstance(value, list)}
        return {
            name: value.strip() if isinstance(value, str) else value
            for name, value in found.items()
            if value is not None
        }

    def settings(self, desk: Desk, filled: Mapping[Component, Any]) -> Settings:
        """Make settings of the form; raise `SettingsError` that names the field."""
        try:
            return desk.stage_settings(self.stage, self.values(filled))
        except SettingsError as error:
            raise SettingsError(in_words(self.stage, str(error))) from None


def build_form(desk: Desk, stage: str, adapters: Collection[str]) -> Form:
    """Put a stage's fields on the page; `adapters` names the settings that are chosen among adapters."""
    group = STAGES[stage]
    start = defaults(desk, stage)
    advanced = [name for name in group.model_fields if not group.is_basic(name) and name not in adapters]
    basic = [name for name in group.model_fields if group.is_basic(name)]
    fields: dict[str, Any] = {}
    with gr.Row(elem_classes="fields"):
        for name in adapters:
            fields[name] = gr.Dropdown(
                [("the newest", "")],
                value="",
                label=label(name),
                info=help_of(group.model_fields[name]),
                min_width=200,
                **GROWING,
            )
    with gr.Row(elem_classes="fields"):
        for name in basic:
            fields[name] = _field(name, group.model_fields[name], start[name])
    title = gr.Textbox(label="Name of the new adapter", placeholder="made up if empty", max_lines=1, max_length=64)
    with gr.Accordion("More settings", open=False, elem_classes="advanced"), gr.Row(elem_classes="fields"):
        for name in advanced:
            fields[name] = _field(name, group.model_fields[name], start[name])
    return Form(stage, title, fields, adapters)


def defaults(desk: Desk, stage: str) -> dict[str, Any]:
    """Give what a fresh form shows: the declared defaults under those that suit this base."""
    return {name: field.default for name, field in STAGES[stage].model_fields.items()} | desk.defaults(stage)


def _field(name: str, field: FieldInfo, value: Any) -> Component:
    looks: dict[str, Any] = {"label": label(name), "info": help_of(field), "min_width": 170, "interactive": True}
    kind = field.annotation
    if names := several_of(field):
        return gr.CheckboxGroup(names, value=[part.strip() for part in str(value).split(",")], **looks)
    if may_be_auto(field):
        return gr.Textbox(str(value), max_lines=1, **looks)
    if get_origin(kind) in (Union, types.UnionType):
        kind = next(part for part in get_args(kind) if part is not type(None))
    if kind is bool:
        return gr.Checkbox(value, **looks)
    if get_origin(kind) is Literal:
        return gr.Dropdown([str(choice) for choice in get_args(kind)], value=str(value), **looks)
    if kind in (int, float):
        # No bounds and no rounding here: a wrong number shall come back with a message that names its field.
        return gr.Number(value, step=_step(value) if kind is float else 1, **looks)
    return gr.Textbox(value, max_lines=1, **looks)


def _step(value: float) -> float:
    """Choose what the arrows of a number add: a unit of its first digit."""
    return float(10.0 ** math.floor(math.log10(abs(value)))) if value else 0.1


# -- words ----------------------------------------------------------------------------------------------------


def label(name: str) -> str:
    """Write a setting's name as a label."""
    words = [SHORT.get(word, word) for word in name.split("_")]
    if name in ("parent", "sft", "reward"):
        words.append("adapter")
    text = " ".join(words)
    return text[0].upper() + text[1:]


def help_of(field: FieldInfo) -> str:
    """Write a setting's help with its bounds."""
    found = [(SIGNS[key], getattr(m, key)) for m in field.metadata for key in SIGNS if hasattr(m, key)]
    bounds = " and ".join(f"{sign} {bound:g}" for sign, bound in found if abs(bound) <= LARGEST_SHOWN)
    return f"{field.description} ({bounds})" if bounds else str(field.description)


def in_words(stage: str, problem: str) -> str:
    """Say what is wrong with a value by the label of its field."""
    text = problem.removeprefix(f"train {stage}: ")
    for name in sorted(STAGES[stage].model_fields, key=len, reverse=True):
        if text.startswith(f"{name} = "):
            return f"{label(name)}{text[len(name) :].replace(': input should be', ': should be')}"
        if "_" in name:  # a message about several settings names them inside
            text = text.replace(name, label(name))
    return text[0].upper() + text[1:]
