"""Forms made of the declarations of settings: what a stage starts from and how long it may take; the rest in a fold.

Names, help, bounds and defaults are those of the command line; here stands only in which group a setting is shown.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import gradio as gr
from gradio.components import Component
from pydantic.fields import FieldInfo

from lorarlhf.errors import SettingsError
from lorarlhf.settings import STAGES, Settings, may_be_auto, several_of
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.live import GROWING
from lorarlhf.ui.train.efforts import EFFORTS, LENGTH, USUAL, defaults, efforts_of, length_of

SHORT = {"kl": "KL", "sft": "SFT", "eos": "EOS", "ppo": "PPO", "lora": "LoRA"}
LABELS = {
    "parent": "Start from",
    "sft": "Start from, and stay close to",
    "reward": "Reward model",
    "practise_on": "Prompts",
}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
BY_EFFORT = "Empty: as Quick, Balanced or Thorough says."
LARGEST_SHOWN = 999
"""A bound beyond it guards against slips of the pen, and says nothing to people."""

OPEN = ("practise_on",)
"""Settings that stand outside the fold: what a stage learns from."""
GROUPS = {
    "Learning": "learning_rate batch_size epochs steps ppo_epochs mini_batches schedule warmup weight_decay "
    "max_grad_norm clip entropy_coef whiten_advantages whiten_rewards adam_eps",
    "Votes": "margin tie_weight both_bad_weight center",
    "Distance from the start": "kl_coef kl_control kl_target kl_horizon kl_budget",
    "Sampling": "temperature top_p max_new_tokens answers_per_prompt rollout_rows missing_eos_score",
    "Critic": "critic gamma lam value_clip value_learning_rate value_warmup_steps",
    "Adapter": "rank alpha targets",
    "Memory": "micro_batch_tokens max_length gradient_checkpointing",
    "Measuring and saving": "heldout_share eval_every eval_prompts sample_every checkpoint_every track seed",
}
"""Title in the fold → the settings that stand under it; a test sees to it that every one stands once."""


@dataclass(frozen=True)
class Form:
    """The fields of one stage."""

    stage: str
    name: gr.Textbox
    """Of the adapter to be."""
    effort: gr.Radio
    """How long it may take."""
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
        length = LENGTH[self.stage]
        numbers = [name for name in numbers if name != length]
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
            length = {LENGTH[self.stage]: self.length(desk, filled)}
            return desk.stage_settings(self.stage, length | self.values(filled))
        except SettingsError as error:
            raise SettingsError(in_words(self.stage, str(error))) from None

    def length(self, desk: Desk, filled: Mapping[Component, Any]) -> Any:
        """Say how long the stage takes by the effort that was chosen."""
        return length_of(self.stage, filled.get(self.effort), defaults(desk, self.stage))

    def given(self, desk: Desk, filled: Mapping[Component, Any], names: Collection[str]) -> dict[str, Any]:
        """Take some settings as they were filled in, right or wrong; those left empty as they will be."""
        found = {name: filled[self.fields[name]] for name in names if name in self.fields}
        found = {name: value for name, value in found.items() if value not in (None, "", [])}
        return ({LENGTH[self.stage]: self.length(desk, filled)} | found) if LENGTH[self.stage] in names else found

    def changed(self, desk: Desk, filled: Mapping[Component, Any]) -> dict[str, str]:
        """Name the settings of the fold that are not as usual for the base, with their values."""
        usual = defaults(desk, self.stage) | {LENGTH[self.stage]: None}
        known, found = STAGES[self.stage].model_fields, {}
        for name, field in self.fields.items():
            value = filled.get(field)
            same = _as_text(value, known[name]) == _as_text(usual[name], known[name])
            if value not in (None, "", []) and not same and name not in self.adapters:
                found[label(name)] = _as_text(value, known[name])
        return found


def build_form(
    desk: Desk, stage: str, adapters: Collection[str], before_fold: Callable[[], None] = lambda: None
) -> Form:
    """Put a stage's fields on the page; `adapters` names the settings that are chosen among adapters.

    `before_fold` puts there what stands above the fold, so that a fold that opens moves no button.
    """
    group = STAGES[stage]
    start = defaults(desk, stage)
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
    start[LENGTH[stage]] = None
    for name in [name for name in OPEN if name in group.model_fields]:
        fields[name] = _field(name, group.model_fields[name], start[name])
    options = [(EFFORTS[name], name) for name in efforts_of(stage)]
    effort = gr.Radio(options, value=USUAL, label="How long it may take", elem_classes="effort", interactive=True)
    title = gr.Textbox(label="Name of the new adapter", placeholder="made up if empty", max_lines=1, max_length=64)
    before_fold()
    with gr.Accordion("Settings", open=False, elem_classes="advanced"):
        for heading, names in GROUPS.items():
            if not (own := [name for name in names.split() if name in group.model_fields]):
                continue
            gr.HTML(f"<h4>{heading}</h4>", elem_classes="group")
            with gr.Row(elem_classes="fields"):
                for name in own:
                    fields[name] = _field(name, group.model_fields[name], start[name], name == LENGTH[stage])
    return Form(stage, title, effort, fields, adapters)


def _as_text(value: Any, field: FieldInfo) -> str:
    """Write a value so that the same one, typed in another way, is the same text."""
    if isinstance(value, list):
        return ", ".join(value)
    text = str(value).strip()
    if field.annotation in (int, float) or may_be_auto(field):
        with suppress(ValueError):
            return f"{float(text):g}"
    return text


def _field(name: str, field: FieldInfo, value: Any, by_effort: bool = False) -> Component:
    info = f"{help_of(field)}. {BY_EFFORT}" if by_effort else help_of(field)
    looks: dict[str, Any] = {"label": label(name), "info": info, "min_width": 170, "interactive": True}
    kind = field.annotation
    if names := several_of(field):
        return gr.CheckboxGroup(names, value=[part.strip() for part in str(value).split(",")], **looks)
    if may_be_auto(field):
        return gr.Textbox("" if value is None else str(value), max_lines=1, **looks)
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
    if name in LABELS:
        return LABELS[name]
    text = " ".join(SHORT.get(word, word) for word in name.split("_"))
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
