"""Runs side by side: their numbers as a table and as a file, and the settings in which they differ. Knows no Gradio."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from lorarlhf.reading import Series
from lorarlhf.settings import STAGES
from lorarlhf.store import RunRow

ABSENT = "–"
NO_NUMBERS = ("run/steps", "data/train", "data/heldout")
"""Rows that count what a run was given; no metrics."""


def numbers_csv(runs: Mapping[str, Series]) -> str:
    """Write all numbers of runs, by id, as CSV: a line a step, a column a metric, empty where it was not measured."""
    names = sorted({name for series in runs.values() for name in series if name not in NO_NUMBERS})
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["run", "step", *names])
    for run, series in runs.items():
        by_step: dict[float, dict[str, float]] = {}
        for name in names:
            for step, value in series.get(name, ()):
                by_step.setdefault(step, {})[name] = value
        for step in sorted(by_step):
            table.writerow([run, f"{step:g}", *(repr(by_step[step][n]) if n in by_step[step] else "" for n in names)])
    return text.getvalue()


def summary(series: Series) -> list[tuple[str, float, float, float, float]]:
    """Sum each metric up: (name, first, newest, lowest, highest)."""
    found = []
    for name in sorted(series):
        values = [y for _, y in series[name] if math.isfinite(y)]
        if values and name not in NO_NUMBERS:
            found.append((name, values[0], values[-1], min(values), max(values)))
    return found


def settings_rows(runs: Sequence[RunRow]) -> list[tuple[str, list[str]]]:
    """List (what, its value in each run): where several runs differ; of a single one, what is not the default."""
    columns = [_said(run) for run in runs]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name, [column.get(name, ABSENT) for column in columns]) for name in names]
    if len(runs) > 1:
        return [(name, values) for name, values in rows if len(set(values)) > 1]
    defaults = {name: field.default for run in runs for name, field in STAGES[run.stage].model_fields.items()}
    return [(name, values) for name, values in rows if name not in defaults or values[0] != _text(defaults[name])]


def _said(run: RunRow) -> dict[str, str]:
    """Say all that decided a run: its base, what it stands on, its data, its settings."""
    load = run.parents.get("load", {})
    found = {"stage": run.stage, "base": run.base, "bits": _text(load.get("bits", ABSENT))}
    for role, name in run.parents.get("adapters", {}).items():
        found[f"{role} adapter"] = "the base model" if name == "base" else str(name)
    found |= {f"rows of {kind}": f"{len(ids):,}" for kind, ids in run.parents.get("data", {}).items()}
    # A role that was left empty is said by the adapter that took it.
    settings = {name: value for name, value in run.settings.items() if f"{name} adapter" not in found}
    return found | {name: _text(value) for name, value in settings.items()}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return ABSENT if value in ("", None) else str(value)
