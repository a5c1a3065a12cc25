"""SFT and reward model here against those of trl 1.12.0: the same base, texts, LoRA, batches and steps, in turns.

    pip install -e ".[bench]"
    python -m benchmarks.sft_reward_vs_trl [--pairs 5] [--steps 5] [--stage sft|reward] [--out FILE]

A random base of 30M in 4 bits, LoRA of rank 16 on all linear layers, batches of 16 texts of 30 to 200 tokens, the same
ones in the same order on both sides; SFT counts its loss on the answers alone. Counted are real tokens and pairs, not
padding. How each side cuts its micro-batches is its own choice (the gradients are the same), and how trl computes the
loss of SFT: both first try a few ways, and take the one that is fastest. `first_loss` shows that both do the same work.
Prints one JSON object; nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.peers.texts import TextWork, make_texts
from benchmarks.peers.turns import Runs, Side, in_turns, ratios
from benchmarks.peers.workloads import BATCH
from benchmarks.record import circumstances, write

HERE = Side("benchmarks.peers.texts_here", ((1024,), (2048,), (4096,)))
"""Tokens of a micro-batch."""
THERE = {
    "sft": Side(
        "benchmarks.peers.texts_trl",
        tuple((rows, loss_type) for rows in (4, 8, 16) for loss_type in ("nll", "chunked_nll")),
    ),
    "reward": Side("benchmarks.peers.texts_trl", ((4,), (8,), (16,))),
}
"""Rows or pairs of a micro-batch."""
ASKED = {"sft": 1.2, "reward": 1.5}
"""How many times TRL's tokens or pairs per second."""


def compare(work: TextWork, path: Path, pairs: int, steps: int) -> dict[str, Any]:
    """Measure both sides in turns."""
    here, there = in_turns(HERE, THERE[work.stage], path, pairs, steps)
    return {
        "stage": work.stage,
        "asked": {"times_trl": ASKED[work.stage]},
        "times_trl": ratios(here, there, "seconds_per_step"),
        "memory_share": ratios(there, here, "peak_bytes"),
        "here": _summary(work, here, steps),
        "trl": _summary(work, there, steps),
    }


def _summary(work: TextWork, runs: Runs, steps: int) -> dict[str, Any]:
    seconds = runs.median("seconds_per_step")
    pairs = {"pairs_per_second": BATCH / seconds} if work.stage == "reward" else {}
    return {
        **pairs,
        "tokens_per_second": runs.median("tokens") / steps / seconds,
        "tokens_per_step": runs.median("tokens") / steps,
        "first_loss": runs.median("first_loss"),
        **runs.summary(),
    }


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="steps counted in each run, after one that warms up")
    parser.add_argument("--stage", choices=tuple(ASKED), action="append")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for stage in args.stage or ASKED:
            work = make_texts(Path(folder) / "base", stage)
            results.append(compare(work, work.save(Path(folder) / "work.json"), args.pairs, args.steps))
    write(circumstances() | {"results": results}, args.out)


if __name__ == "__main__":
    main()
