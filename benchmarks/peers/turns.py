"""Measure two sides in turns, each run in a process of its own, each side at the micro-batch that suits it best."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

TRIED_STEPS = 3
"""Steps of a run that only tries a micro-batch; the first warms up."""


class Side(NamedTuple):
    """One of the two: the module that does the work, and the ways of cutting it that it tries first."""

    module: str
    ways: tuple[tuple[Any, ...], ...]
    """Arguments each; the fastest is taken."""


class Runs(NamedTuple):
    """What one side measured."""

    way: tuple[Any, ...]
    found: list[dict[str, Any]]

    def median(self, name: str) -> float:
        """Return the median of a number over the runs."""
        return statistics.median(run[name] for run in self.found)

    def phases(self) -> dict[str, float]:
        """Return the median seconds of each phase."""
        return {name: statistics.median(run["phases"][name] for run in self.found) for name in self.found[0]["phases"]}

    def summary(self) -> dict[str, Any]:
        """Say what is the same for all benchmarks."""
        return {
            "seconds_per_step": self.median("seconds_per_step"),
            "peak_mib": self.median("peak_bytes") / 2**20,
            "libraries_mib": self.median("libraries_bytes") / 2**20,
            "threads": self.found[0]["threads"],
            "way": list(self.way),
        }


def in_turns(here: Side, there: Side, work: Path, pairs: int, steps: int) -> tuple[Runs, Runs]:
    """Let both sides try their ways, then run them in pairs of `steps` counted steps; neither always comes second."""
    sides = [Runs(_quickest(side, work), []) for side in (here, there)]
    modules = [here.module, there.module]
    for pair in range(pairs):
        for which in (0, 1) if pair % 2 == 0 else (1, 0):
            sides[which].found.append(run_side(modules[which], work, steps + 1, *sides[which].way))
    return sides[0], sides[1]


def _quickest(side: Side, work: Path) -> tuple[Any, ...]:
    if len(side.ways) == 1:
        return side.ways[0]
    seconds = {way: run_side(side.module, work, TRIED_STEPS, *way)["seconds_per_step"] for way in side.ways}
    return min(seconds, key=lambda way: seconds[way])


def ratios(one: Runs, other: Runs, name: str) -> dict[str, float]:
    """Divide a number of the other side by that of the first, pair by pair."""
    found = [b[name] / a[name] for a, b in zip(one.found, other.found, strict=True)]
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def run_side(module: str, *args: Any) -> dict[str, Any]:
    """Have a process of its own do the work and return what it measured."""
    command = [sys.executable, "-m", module, *map(str, args)]
    quiet = {**os.environ, "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, env=quiet, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
