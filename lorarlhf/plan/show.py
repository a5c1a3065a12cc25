"""A plan as text for a terminal, from the plain values of `Plan.as_json`. Knows nothing of torch."""

from __future__ import annotations

import re
from typing import Any

from lorarlhf.errors import SettingsError
from lorarlhf.figures import duration
from lorarlhf.files import size

WIDTH = 48
"""Letters of the bar."""
SIGNS = {
    "base": "B",
    "adapters": "A",
    "gradients": "G",
    "optimizer": "O",
    "cache": "K",
    "activations": "#",
    "logits": "L",
    "copies": "C",
    "heap": "h",
    "runtime": "r",
}
NAMES = {
    "base": "frozen base",
    "adapters": "adapters",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "cache": "KV cache",
    "activations": "activations",
    "logits": "logits",
    "copies": "best adapter, checkpoint",
    "heap": "kept back by libraries",
    "runtime": "Python, torch, libraries",
}
PHASES = {
    "draw": "drawing answers",
    "score": "scoring answers",
    "learn": "learning",
    "write": "writing a checkpoint",
    "measure": "measuring",
}
UNITS = {"": 30, "G": 30, "M": 20, "T": 40}


def parse_size(text: str) -> int:
    """Read a size such as 8GB, 7.5 GiB or 8192MB, in powers of 1024 → bytes; a bare number is GB."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([GMT]?)(?:I?B)?\s*", text.upper())
    if not found or not float(found[1]):
        raise SettingsError(f"{text!r} is no size; write it like 8GB, 7.5GB or 6000MB")
    return int(float(found[1]) * 2 ** UNITS[found[2]])


def show_plan(plan: dict[str, Any]) -> str:
    """Write the bar, its legend, the time, and what to change."""
    peak, there = plan["peak_bytes"], plan["available_bytes"]
    number = {2: "bf16", 4: "fp32"}[plan["number_bytes"]]
    lines = [f"{plan['stage']} on {plan['base']}, {plan['bits']} bits, computing in {number} on {plan['device']}", ""]
    lines += [_bar(plan["parts"], max(peak, there or 0), there), _verdict(plan), ""]
    shown = [(part, count) for part, count in plan["parts"].items() if count]
    lines += [f"  {SIGNS[part]} {NAMES[part]:<26}{size(count):>9}" for part, count in shown]
    lines += ["", "Peak of every phase:"]
    lines += [f"    {PHASES[row['phase']]:<26}{size(row['bytes']):>9}" for row in plan["phases"]]
    lines += ["", *_time(plan)]
    if plan["advice"]:
        lines += ["", "What makes room:"]
        lines += [
            f"  {'fits' if a['fits'] else 'not enough':<11}{size(a['peak_bytes']):>9}  {a['text']}"
            for a in plan["advice"]
        ]
    if plan["fits"] is False and not any(advice["fits"] for advice in plan["advice"]):
        lines += ["  Nothing of this is enough: it takes a smaller base, shorter texts or more memory."]
    lines += ["", *(f"Note: {note}" for note in plan["notes"])] if plan["notes"] else []
    return "\n".join(lines)


def _bar(parts: dict[str, int], whole: int, there: int | None) -> str:
    bar, done, letters = "", 0.0, 0
    for part, count in parts.items():
        done += count
        # A part that is there shows at least one letter, where there is room.
        letters = max(len(bar) + (count > 0.002 * whole), round(WIDTH * done / whole))
        bar += SIGNS[part] * (letters - len(bar))
    if there is None or there >= whole:
        return f"  [{bar:.<{WIDTH}}]"
    end = min(len(bar) - 1, round(WIDTH * there / whole))
    return f"  [{bar[:end]}|{bar[end + 1 :]}]  | is where memory ends"


def _verdict(plan: dict[str, Any]) -> str:
    peak, there, phase = size(plan["peak_bytes"]), plan["available_bytes"], PHASES[plan["peak_phase"]]
    if there is None:
        return f"  needs {peak} while {phase}"
    if not plan["fits"]:
        return f"  does not fit: {peak} needed while {phase}, {size(there)} there"
    close = "; close, as the prediction may be off by a tenth" if plan["tight"] else ""
    return f"  fits: {peak} of {size(there)} while {phase}{close}"


def _time(plan: dict[str, Any]) -> list[str]:
    steps = f"{plan['steps']} step{'s' * (plan['steps'] != 1)}"
    if plan["seconds"] is None:
        return [f"Time: {steps}; how long they take only a probe on the machine tells"]
    spent = {PHASES[name]: s for name, s in plan["seconds_by_phase"].items() if s >= 0.005 * plan["seconds"]}
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in spent.items())
    return [f"Time: {steps}, about {duration(plan['seconds'])} ({parts})"]
