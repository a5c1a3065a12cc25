"""PPO here against PPO of trl 1.12.0: the same base, prompts, LoRA, batch and passes, in turns on the same machine.

    pip install -e ".[bench]"
    python -m benchmarks.ppo_vs_trl [--pairs 5] [--steps 3] [--work fixed|starter] [--out FILE]

How each side cuts its micro-batches is its own choice (the gradients are the same): both first try a few sizes, and
take the one that is fastest. Prints one JSON object; nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers.workloads import BATCH, Work, fixed_length, run_side, starter_answers

SIDES = {"here": ("benchmarks.peers.ppo_here", (1024, 2048, 4096)), "trl": ("benchmarks.peers.ppo_trl", (4, 8, 16))}
"""Module of each side, and the micro-batches it tries: tokens here, rows there."""
ASKED = {"fixed length": 2.0, "starter": 3.0}
"""How many times TRL's samples per second."""


def compare(work: Work, path: Path, pairs: int, steps: int) -> dict[str, Any]:
    """Measure both sides in turns."""
    best = {}
    for side, (module, sizes) in SIDES.items():
        tried = {size: run_side(module, path, 2, size)["seconds_per_step"] for size in sizes}
        best[side] = min(tried, key=lambda size: tried[size])
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for pair in range(pairs):
        for side in sorted(SIDES, reverse=bool(pair % 2)):  # neither always comes second
            runs[side].append(run_side(SIDES[side][0], path, steps + 1, best[side]))
    ratios = [
        there["seconds_per_step"] / here["seconds_per_step"]
        for here, there in zip(runs["here"], runs["trl"], strict=True)
    ]
    memory = [here["peak_bytes"] / there["peak_bytes"] for here, there in zip(runs["here"], runs["trl"], strict=True)]
    return {
        "work": work.name,
        "asked": {"times_trl": ASKED[work.name], "memory_share": 0.5},
        "times_trl": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
        "memory_share": {"median": statistics.median(memory), "most": max(memory)},
        **{side: _summary(found) | {"micro_batch": best[side]} for side, found in runs.items()},
    }


def _summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    def median(of: str) -> float:
        return statistics.median(run[of] for run in runs)

    return {
        "samples_per_second": BATCH / median("seconds_per_step"),
        "seconds_per_step": median("seconds_per_step"),
        "phases": {name: statistics.median(run["phases"][name] for run in runs) for name in runs[0]["phases"]},
        "tokens_per_answer": median("tokens_per_answer"),
        "peak_mib": median("peak_bytes") / 2**20,
        "libraries_mib": median("libraries_bytes") / 2**20,
        "threads": runs[0]["threads"],
    }


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps counted in each run, after one that warms up")
    parser.add_argument("--work", choices=("fixed", "starter"), action="append")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.work or ("fixed", "starter"):
            work = fixed_length(Path(folder) / "base") if name == "fixed" else starter_answers()
            results.append(compare(work, work.save(Path(folder) / "work.json"), args.pairs, args.steps))
    packages = ("torch", "transformers", "peft", "bitsandbytes", "trl")
    found = {
        "machine": f"{platform.machine()}, {results[0]['here']['threads']} threads",
        "versions": {name: version(name) for name in packages},
        "results": results,
    }
    text = json.dumps(found, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
