"""Does the README's walkthrough in the terminal keep its word? Its very lines, as commands, on several seeds.

    python -m benchmarks.walkthrough [--seeds 3] [--votes 400] [--noise 0.1] [--out FILE]

Each seed runs every line of the block in a fresh workspace, by the declared defaults; only what a person brings is
made here: `votes.jsonl`, votes of the scripted rater on answers of sft-1, a tenth of them wrong, and `answers.jsonl`.
Seeds after the first add `--seed` to the stages. In the end the rater compares ppo-1 with sft-1 on prompts nobody
trained on, ties half. Also told: what libraries said on the terminal. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import circumstances, write
from lorarlhf.engine.core import Engine
from lorarlhf.engine.demo import judge_policy, scripted_votes
from lorarlhf.preset import load_preset
from lorarlhf.settings import LoadSettings
from lorarlhf.starter import prompts
from lorarlhf.types import Comparison
from lorarlhf.workspace import Workspace

README = Path(__file__).parents[1] / "README.md"
ASKED = 0.80
"""Share of the prompts for which the policy is to be preferred, on every seed."""


def commands() -> list[list[str]]:
    """Read the lines of the walkthrough, without their remarks."""
    text = README.read_text(encoding="utf-8")
    found = re.search(r"^## The same in a terminal\n+```bash\n(.*?)```", text, re.S | re.M)
    if found is None:
        raise SystemExit("README.md has no block under “The same in a terminal”")
    return [shlex.split(line, comments=True) for line in found[1].splitlines()]


def one_seed(seed: int, votes: int, noise: float) -> dict[str, Any]:
    """Follow the walkthrough once and measure."""
    began, seconds, chatter = time.perf_counter(), {}, []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for words in commands():
            if "votes.jsonl" in words:
                given = _vote(folder, votes, noise, seed)
                _write(folder / "votes.jsonl", [_row(vote) for vote in given])
                _write(folder / "answers.jsonl", [{"prompt": _text(vote), "answer": vote.a} for vote in given[:5]])
            more = ["--seed", str(seed)] if seed and words[1] == "train" else []
            start = time.perf_counter()
            chatter += _run([*words[1:], *more], folder)
            seconds[" ".join(words[1:3])] = time.perf_counter() - start
        engine = _engine(folder)
        duel = judge_policy(engine, "sft-1", "ppo-1", seed)
        kl = engine.saved("ppo-1").card["metrics"]["eval/kl"]
        right = engine.saved("reward-1").card["metrics"]["eval/accuracy"]
        engine.store.close()
    return {
        "seed": seed,
        "win_rate": duel["win_rate"],
        "win_rate_interval": duel["win_rate_interval"],
        "kl": kl,
        "reward_right_heldout": right,
        "library_warnings": chatter,
        "seconds": {**seconds, "all": time.perf_counter() - began},
    }


def _run(words: list[str], folder: Path) -> list[str]:
    """Run one command as a person would → the lines of its stderr that are no words of ours."""
    environment = {**os.environ, "LORARLHF_HOME": str(folder / "home"), "PYTHONPATH": str(README.parent)}
    done = subprocess.run(
        [sys.executable, "-m", "lorarlhf", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    print(f"lorarlhf {shlex.join(words)}: exit {done.returncode}", file=sys.stderr)
    if done.returncode:
        raise SystemExit(f"lorarlhf {shlex.join(words)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return [line for line in done.stderr.splitlines() if re.search(r"\bwarning|[a-z]Warning|[Dd]eprecat", line)]


def _engine(folder: Path) -> Engine:
    return Engine(Workspace(folder / "home"), LoadSettings.parse(load_preset("starter").get("load", {})))


def _vote(folder: Path, votes: int, noise: float, seed: int) -> list[Comparison]:
    engine = _engine(folder)
    given = scripted_votes(engine, "sft-1", prompts(), votes, noise, seed)
    engine.store.close()
    return given


def _text(vote: Comparison) -> str:
    return vote.prompt[-1]["content"]


def _row(vote: Comparison) -> dict[str, str]:
    return {"prompt": _text(vote), "a": vote.a, "b": vote.b, "outcome": vote.outcome.value}


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    """Run all seeds and say whether the promise holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--votes", type=int, default=400)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    runs = []
    for seed in range(args.seeds):
        runs.append(one_seed(seed, args.votes, args.noise))
        print(json.dumps(runs[-1]), file=sys.stderr)
    holds = {
        "win_rate_each": min(run["win_rate"] for run in runs) >= ASKED,
        "no_library_warnings": not any(run["library_warnings"] for run in runs),
    }
    write(circumstances() | {"asked": ASKED, "holds": holds, "runs": runs}, args.out)


if __name__ == "__main__":
    main()
