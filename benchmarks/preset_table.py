"""What each preset takes, as predicted, and as measured where a machine of the kind was at hand.

    python -m benchmarks.preset_table > presets/README.md
    python -m benchmarks.preset_table --measure cpu          # some minutes; updates benchmarks/results/presets.json

A preset is measured with random weights in the shape of its base, which take the same memory as trained ones and need
no download, on the starter's texts. Random answers never end: a step of PPO takes as long as it may.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lorarlhf.files import size
from lorarlhf.plan.memory import Load
from lorarlhf.plan.planning import make_plan
from lorarlhf.plan.shapes import Shape, known
from lorarlhf.plan.show import PHASES
from lorarlhf.preset import load_preset, preset_files
from lorarlhf.settings import STAGES

RESULTS = Path(__file__).parent / "results" / "presets.json"
FEW = {
    "sft": ["--epochs", "0.05"],
    "reward": ["--epochs", "0.1"],
    "ppo": ["--steps", "2", "--value-warmup-steps", "1", "--eval-prompts", "4"],
}
"""Enough steps to see the peak."""
HEAD = """# Presets

`--preset NAME` sets many settings at once, those of the command line win; `--preset auto` takes the largest that this
machine holds, and a YAML file of your own works as well. [SETTINGS.md](SETTINGS.md) explains every setting. In the app
presets are chosen under *Models*.

Predicted peaks are those of `lorarlhf plan` from formulas alone, for texts of many lengths, prompts of about 256 tokens
with answers of as many (PPO's: as long as the preset allows); they were checked against measurements on a processor
(`python -m benchmarks.plan_check`), not yet on a card. Measured ones are the peak of the whole process with random
weights in the shape of that base, on the starter's texts, which are shorter but fill a pass as well (`python -m
benchmarks.preset_table --measure NAME`), at the commit named. The starter's own figures are in the project's README.

| preset | for | base | stage | predicted peak | most while | measured |
|---|---|---|---|---|---|---|"""


def rows() -> list[str]:
    """Predict every preset and stage; a line each."""
    measured = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = []
    for name, path in sorted(
        preset_files().items(), key=lambda item: int(item[0].removesuffix("gb")) if item[0][0].isdigit() else 0
    ):
        title = path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
        preset = load_preset(name)
        base = preset["load"]["base"]
        shape = known(base)
        for stage in STAGES:
            if shape is None:
                continue  # the starter: the README of the project has its figures
            plan = _plan(name, preset, stage, shape)
            seen = measured.get(name, {}).get(stage)
            said = "not yet"
            if seen:
                said = f"{size(seen['peak_bytes'])}, {seen['step_seconds']:.0f} s a step ({seen['machine']})"
            first = (name, title, base) if stage == "sft" else ("", "", "")
            found.append(
                f"| {' | '.join(first)} | {stage} | {size(plan.peak.total)} | {PHASES[plan.peak.name]} | {said} |"
            )
    return found


def _plan(name: str, preset: dict[str, Any], stage: str, shape: Shape) -> Any:
    settings = STAGES[stage].parse(preset.get(stage, {}))
    return make_plan(stage, settings, Load(shape, preset["load"]["bits"], 2, "cpu" if name == "cpu" else "cuda"))


def measure(name: str) -> None:
    """Run a few steps of every stage and note the peak of each process."""
    preset = load_preset(name)
    shape = known(preset["load"]["base"])
    assert shape is not None
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        base, work = Path(folder) / shape.name, Path(folder) / "work"
        _make(base, shape)
        _lorarlhf("import", "starter", "--as", "demonstrations", "--workspace", work)
        _lorarlhf("import", "starter", "--as", "prompts", "--workspace", work)
        votes = Path(folder) / "votes.jsonl"
        votes.write_text("".join(json.dumps(vote) + "\n" for vote in _votes()))
        _lorarlhf("import", votes, "--as", "comparisons", "--workspace", work)
        for stage, few in FEW.items():
            command = ["train", stage, "--preset", name, "--base", base, "--workspace", work, *few]
            peak = _peak(command)
            seconds, machine = _step_seconds(work), f"{os.cpu_count()} cores {platform.machine()}, at {_commit()}"
            found.setdefault(name, {})[stage] = {"peak_bytes": peak, "step_seconds": seconds, "machine": machine}
            print(f"{name} {stage}: {size(peak)}, {seconds:.1f} s a step", file=sys.stderr)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=2) + "\n")


def _make(folder: Path, shape: Shape) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.models import config_of
    from lorarlhf import starter

    torch.set_default_dtype(torch.bfloat16)
    AutoModelForCausalLM.from_config(config_of(shape)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(starter.MODEL_DIR).save_pretrained(folder)


def _votes() -> list[dict[str, str]]:
    from itertools import pairwise

    from lorarlhf import starter

    told = starter.transcripts()[:200]
    return [
        {"prompt": a.prompt[-1]["content"], "chosen": a.response, "rejected": b.response}
        for a, b in pairwise(told)
        if a.response != b.response
    ]


def _lorarlhf(*words: Any) -> None:
    subprocess.run([sys.executable, "-m", "lorarlhf", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


PEAK = """
import resource, runpy, sys
sys.argv = ["lorarlhf", *sys.argv[1:]]
try:
    runpy.run_module("lorarlhf")
finally:
    import torch
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(torch.cuda.max_memory_reserved() if torch.cuda.is_available() else kib * 1024)
"""


def _peak(command: list[Any]) -> int:
    """Run a command in a process of its own → bytes: what torch reserved on the card, else the resident memory."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, command)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))} failed")
    return int(done.stdout.splitlines()[-1])


def _step_seconds(work: Path) -> float:
    """Return the median seconds of a step of the newest run; the last step, where there are two, has warmed up."""
    from lorarlhf.workspace import Workspace

    with Workspace(work).store() as store:
        times = [value for _, name, value in store.metrics(store.runs()[-1].id) if name == "time/step"]
    return statistics.median(times[1:] or times)


def main() -> None:
    """Parse the arguments; measure or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", metavar="NAME")
    args = parser.parse_args()
    if args.measure:
        import torch

        if torch.cuda.is_available() == (args.measure == "cpu"):
            raise SystemExit("the preset for processors is measured without a card, the others with one")
        measure(args.measure)
    else:
        print(HEAD, *rows(), sep="\n")


if __name__ == "__main__":
    main()
