"""PPO here against PPO of trl 1.12.0: the same base, prompts, LoRA, batch and passes, in turns on the same machine.

    pip install -e ".[bench]"
    python -m benchmarks.ppo_vs_trl [--pairs 5] [--steps 3] [--work fixed|starter] [--critic head|none] [--out FILE]

How each side cuts its micro-batches is its own choice (the gradients are the same): both first try a few sizes, and
take the one that is fastest. Prints one JSON object; nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.critics import add_critic
from benchmarks.peers.turns import Runs, Side, in_turns, ratios
from benchmarks.peers.workloads import BATCH, Work, fixed_length, starter_answers
from benchmarks.record import circumstances, write

BUDGETS = (1024, 2048, 4096)
THERE = Side("benchmarks.peers.ppo_trl", ((4,), (8,), (16,)))
"""The micro-batches they try: tokens here, rows there."""
ASKED = {"fixed length": 2.0, "starter": 3.0}
"""How many times TRL's samples per second."""


def compare(work: Work, path: Path, pairs: int, steps: int, critic: str) -> dict[str, Any]:
    """Measure both sides in turns; without a critic here (RLOO), PPO there still has one."""
    ours = Side("benchmarks.peers.ppo_here", tuple((budget, critic) for budget in BUDGETS))
    here, there = in_turns(ours, THERE, path, pairs, steps)
    return {
        "work": work.name,
        "critic": critic,
        "asked": {"times_trl": ASKED[work.name], "memory_share": 0.5},
        "times_trl": ratios(here, there, "seconds_per_step"),
        "memory_share": ratios(there, here, "peak_bytes"),
        "here": _summary(here),
        "trl": _summary(there),
    }


def _summary(runs: Runs) -> dict[str, Any]:
    return {
        "samples_per_second": BATCH / runs.median("seconds_per_step"),
        "phases": runs.phases(),
        "tokens_per_answer": runs.median("tokens_per_answer"),
        **runs.summary(),
    }


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps counted in each run, after one that warms up")
    parser.add_argument("--work", choices=("fixed", "starter"), action="append")
    add_critic(parser)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.work or ("fixed", "starter"):
            work = fixed_length(Path(folder) / "base") if name == "fixed" else starter_answers()
            results.append(compare(work, work.save(Path(folder) / "work.json"), args.pairs, args.steps, args.critic))
    write(circumstances() | {"results": results}, args.out)


if __name__ == "__main__":
    main()
