"""What does a PPO step cost as answers grow from 64 to 512 tokens? At most in line with them, and attention's share.

    python -m benchmarks.answer_length [--rounds 3] [--critic head|none] [--out FILE]

The fixed workload of `benchmarks.ppo_vs_trl` (random base of 30M in 4 bits, prompts of 32 tokens, 16 answers, 4 epochs)
with answers of 64, 128, 256 and 512 tokens, in turns, each step timed in two parts: drawing, and all that reads whole
sequences (scores of the roles, updates). `times` is what a step takes as a multiple of that with the shortest answers;
it holds where that is at most `most`: as many times as the answers are longer, and the share of attention, whose work
grows with the pairs of tokens. `work` is stricter: the multiplications alone, with a prompt that does not grow.

Prints one JSON object; nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.critics import add_critic
from benchmarks.peers.workloads import BATCH, Meter, fixed_length
from benchmarks.record import circumstances, write
from lorarlhf.plan.shapes import Shape

ANSWERS = (64, 128, 256, 512)
"""Tokens of every answer."""
BUDGET = 2048
"""Tokens of a micro-batch."""


class Work(NamedTuple):
    """Multiplications of a prompt and its answer going once through the base, drawn or read."""

    products: float
    attention: float

    @classmethod
    def of(cls, shape: Shape, prompt: int, answer: int) -> Work:
        """Count them."""
        total = prompt + answer
        products = shape.layers * sum(matrix.inputs * matrix.outputs for matrix in shape.matrices)
        # Every token looks at those before it and at itself, once by their keys and once by their values.
        pairs = total * (total + 1) / 2
        return cls(
            total * products + answer * shape.vocabulary * shape.hidden, pairs * 2 * shape.layers * shape.queries
        )


def measure(folder: Path, answers: tuple[int, ...], rounds: int, critic: str) -> dict[int, dict[str, list[float]]]:
    """Time steps with every length in turn → length → phase → seconds of each round."""
    from benchmarks.peers.ppo_here import make_stage, timed
    from lorarlhf.hardware import release_memory

    work = fixed_length(folder)
    seconds: dict[int, dict[str, list[float]]] = {answer: defaultdict(list) for answer in answers}
    for round_ in range(rounds + 1):
        for answer in answers:
            stage = make_stage(replace(work, answer=answer), rounds + 1, BUDGET, critic)
            meter = Meter()
            with timed(meter, stage):
                meter.start()
                stage.step(round_)
                release_memory()
            whole = meter.elapsed()
            if round_:  # the first one warms up
                seconds[answer]["step"].append(whole)
                seconds[answer]["sampling"].append(meter.phases["sampling"])
                seconds[answer]["reading"].append(whole - meter.phases["sampling"])
    return seconds


def compare(shape: Shape, prompt: int, seconds: dict[int, dict[str, list[float]]]) -> dict[str, Any]:
    """Put what steps took beside what their work grew by."""
    shortest = min(seconds)
    medians = {n: {phase: statistics.median(found) for phase, found in of.items()} for n, of in seconds.items()}
    first, rows = Work.of(shape, prompt, shortest), []
    for answer, found in medians.items():
        work, longer = Work.of(shape, prompt, answer), answer / shortest
        times = found["step"] / medians[shortest]["step"]
        most = longer + max(0.0, work.attention - longer * first.attention) / sum(first)
        row = {"answer": answer, "seconds": found, "times": times, "most": most, "work": sum(work) / sum(first)}
        rows.append(row | {"holds": times <= most})
    return {"batch": BATCH, "prompt": prompt, "budget": BUDGET, "rows": rows, "holds": all(r["holds"] for r in rows)}


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    add_critic(parser)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    from transformers import AutoConfig

    from lorarlhf.plan.shapes import shape_of

    with tempfile.TemporaryDirectory() as folder:
        seconds = measure(Path(folder), ANSWERS, arguments.rounds, arguments.critic)
        shape = shape_of(AutoConfig.from_pretrained(folder), "30M")
    found = compare(shape, 32, seconds)
    write(circumstances() | {"critic": arguments.critic} | found, arguments.out)


if __name__ == "__main__":
    main()
