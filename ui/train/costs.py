"""What the stages would take in memory and time, asked of the engine before anything starts. Knows no Gradio."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

from lorarlhf.engine.client import Job
from lorarlhf.errors import LoraRlhfError
from lorarlhf.figures import duration
from lorarlhf.files import size
from lorarlhf.plan.show import PHASES
from lorarlhf.settings import Settings
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.models.memory import Part, bar_html

GROUPS = (
    ("base", "frozen base", ("base",)),
    ("adapter", "adapters and their training", ("adapters", "gradients", "optimizer", "copies")),
    ("work", "batch", ("cache", "activations", "logits")),
    ("rest", "libraries", ("heap", "runtime")),
)
"""Colour and name of what the parts of a plan are shown as."""
MOST_ADVICE = 3


@dataclass
class Asked:
    """A plan on its way, or there."""

    key: Any
    """What it depends on."""
    probing: bool
    job: Job


class Costs:
    """The newest plan of each stage. The engine makes them in the order they are asked for, between other jobs."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._asked: dict[str, Asked] = {}

    def ask(self, stage: str, key: Any, settings: Settings, *, probing: bool = False) -> None:
        """Have a stage planned unless it is already, for the same key; `probing` measures the machine as well."""
        asked = self._asked.get(stage)
        if asked and asked.key == key and not (probing and not asked.probing):
            return
        if asked:
            asked.job.stop()
        self._asked[stage] = Asked(key, probing, self._desk.engine.plan(stage, settings, probing=probing))

    @property
    def waiting(self) -> bool:
        """Tell whether a plan is on its way."""
        return any(not asked.job.done for asked in self._asked.values())

    def stamp(self, stage: str) -> Any:
        """Give what changes whenever `html` does."""
        asked = self._asked.get(stage)
        return asked and (str(asked.key), asked.probing, asked.job.done)

    def plan(self, stage: str) -> dict[str, Any]:
        """Give the plan of a stage as `Plan.as_json` does; empty where there is none, or not yet."""
        asked = self._asked.get(stage)
        there = asked and asked.job.done and not asked.job.future.exception()
        return asked.job.result() if asked and there else {}

    def html(self, stage: str) -> str:
        """Write the plan of a stage; nothing where none was asked for."""
        asked = self._asked.get(stage)
        if asked is None:
            return ""
        if not asked.job.done:
            words = "Estimating the time …" if asked.probing else "Counting …"
            return f"<p class='cost' role='status'>{words}</p>"
        try:
            return plan_html(asked.job.result())
        except LoraRlhfError as error:
            return f"<p class='cost'>What it would take is not known: {escape(str(error))}</p>"


def plan_html(plan: dict[str, Any]) -> str:
    """Write a plan as `Plan.as_json` gives it: the peak as a bar against what there is, the time, what makes room."""
    peak, there = plan["peak_bytes"], plan["available_bytes"]
    parts = [Part(kind, name, sum(plan["parts"].get(part, 0) for part in some)) for kind, name, some in GROUPS]
    if there is not None:
        parts.append(Part("free", "free", max(0, there - peak)))
    of = f" of {size(there)}" if there is not None else ""
    words = f"Needs {size(peak)}{of}, most of it while {PHASES[plan['peak_phase']]}"
    lines = [bar_html(parts, words)]
    if plan["seconds"] is not None:
        spent = sorted(plan["seconds_by_phase"].items(), key=lambda phase: -phase[1])
        inside = ", ".join(f"{PHASES[name]} {duration(s)}" for name, s in spent if s >= 0.05 * plan["seconds"])
        lines.append(f"<p>Time: about {duration(plan['seconds'])} for {plan['steps']:,} steps ({escape(inside)})</p>")
    if plan["fits"] is False:
        lines.append("<p class='bad' role='alert'>That is more than there is.</p>")
    elif plan["tight"]:
        lines.append("<p class='bad'>That is close: the estimate may be off by a tenth.</p>")
    if advice := plan["advice"][:MOST_ADVICE]:
        found = (f"<li>{size(a['peak_bytes'])}: {escape(a['text'])}</li>" for a in advice)
        lines.append(f"<p>What makes room:</p><ul class='advice'>{''.join(found)}</ul>")
    return f"<div class='cost'>{''.join(lines)}</div>"
