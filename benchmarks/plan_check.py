"""Compare plans with what stages really take: peak memory, and time, over a grid of bases and settings.

    python -m benchmarks.plan_check [--only TEXT] > plan_check.json

Each case runs in a process of its own, on one thread: it plans with a probe, trains while the kernel keeps the peak of
the resident memory, and trains once more while torch's allocator is watched. Memory is what the stage takes beyond the
loaded base; that of the whole process has all in it, also what the probe left there, such as the code oneDNN writes.
Time is the processor's, which other programs on the machine change less than the clock on the wall. Bases are random,
in 4 bits unless the case says otherwise; answers of random bases do not end, those of the starter do.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEMORY_AIM, TIME_AIM = 0.10, 0.25
VOCABULARY = 8192
MODELS = {
    "llama": {"layers": 4, "hidden": 256, "inner": 640},
    "qwen3": {"layers": 6, "hidden": 192, "inner": 512},
    "gpt2": {"layers": 3, "hidden": 256, "inner": 1024},
    "gemma3": {"layers": 4, "hidden": 256, "inner": 512},
}
TEXT = "where is my parcel please tell when you can send it back to me thank and good day from our desk"
WORDS = TEXT.split()


def grid() -> Iterator[dict[str, Any]]:
    """List the cases: a base, how it is loaded, a stage, lengths of the texts, settings."""

    def case(model: str, compute: str, stage: str, texts: int = 1, bits: int = 4, **settings: Any) -> dict[str, Any]:
        common = {"micro_batch_tokens": 1024, "batch_size": 16, "rank": 16, "checkpoint_every": 2}
        own = {"max_new_tokens": 32, "value_warmup_steps": 1, "eval_prompts": 8, "eval_every": 2, "steps": 3}
        asked = {**common, **(own if stage == "ppo" else {"epochs": 1.0}), **settings}
        return {"model": model, "compute": compute, "bits": bits, "stage": stage, "texts": texts, "settings": asked}

    yield case("llama", "fp32", "sft")
    yield case("llama", "bf16", "sft", micro_batch_tokens=2048)
    yield case("llama", "bf16", "sft", rank=64, micro_batch_tokens=512, gradient_checkpointing=True)
    yield case("llama", "fp32", "sft", rank=256, micro_batch_tokens=256)
    yield case("llama", "fp32", "sft", texts=3, batch_size=4)
    yield case("llama", "fp32", "reward", gradient_checkpointing=True)
    yield case("llama", "fp32", "ppo")
    yield case("llama", "bf16", "ppo", rank=64, micro_batch_tokens=512, gradient_checkpointing=True)
    yield case("llama", "bf16", "ppo", texts=3, batch_size=8, rollout_rows=4, top_p=0.9)
    yield case("llama", "bf16", "sft", bits=8)
    yield case("llama", "fp32", "sft", bits=16)
    yield case("qwen3", "fp32", "sft", rank=4)
    yield case("qwen3", "bf16", "reward", batch_size=8)
    yield case("qwen3", "fp32", "reward", rank=32, micro_batch_tokens=2048, gradient_checkpointing=True)
    yield case("qwen3", "bf16", "ppo", micro_batch_tokens=2048)
    yield case("gpt2", "fp32", "sft")
    yield case("gpt2", "bf16", "reward", rank=64)
    yield case("gpt2", "fp32", "ppo", gradient_checkpointing=True, batch_size=32)
    yield case("gemma3", "bf16", "sft", micro_batch_tokens=2048)
    yield case("starter", "fp32", "sft")
    yield case("starter", "bf16", "reward", micro_batch_tokens=2048)
    yield case("starter", "fp32", "ppo", batch_size=32, steps=4)
    yield case("starter", "bf16", "ppo", micro_batch_tokens=2048, rank=8)


# -- one case, in its own process -----------------------------------------------------------------------------


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Plan, then train twice, and compare."""
    import psutil
    import torch

    torch.set_num_threads(1)
    from lorarlhf.engine.core import Engine
    from lorarlhf.engine.planning import plan
    from lorarlhf.engine.training import train
    from lorarlhf.hardware import release_memory
    from lorarlhf.plan.peak import allocated, resident
    from lorarlhf.settings import STAGES, LoadSettings
    from lorarlhf.workspace import Workspace

    settings = STAGES[case["stage"]].parse(case["settings"])
    with tempfile.TemporaryDirectory() as folder:
        base = case["model"] if case["model"] == "starter" else str(make_base(Path(folder) / "base", case["model"]))
        load = LoadSettings.parse({"base": base, "bits": case["bits"], "compute": case["compute"], "device": "cpu"})
        engine = Engine(Workspace(Path(folder) / "work"), load)
        fill(engine, case["texts"], case["stage"])
        began = time.perf_counter()
        on_paper = plan(engine, case["stage"], settings, probing=False)
        counted = time.perf_counter()
        planned = plan(engine, case["stage"], settings, clock=time.process_time)
        probing = time.perf_counter() - counted
        release_memory()
        before = psutil.Process().memory_info().rss
        wall, cpu = time.perf_counter(), time.process_time()
        with resident() as rss:
            train(engine, case["stage"], settings)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        with allocated(engine.base.device) as peak:
            train(engine, case["stage"], settings)
        metrics = engine.store.metrics(engine.store.runs()[-1].id)
        engine.store.close()
    kept = planned.peak.parts["heap"]
    predicted, formula = (beyond_base(p.peak) for p in (planned, on_paper))
    assert planned.seconds is not None
    seconds = sum(planned.seconds.values())
    rest = planned.peak.parts["base"] + planned.peak.parts["runtime"]
    return {
        **case,
        "phase": planned.peak.name,
        "predicted_bytes": round(predicted),
        "formula_bytes": round(formula),
        "allocator_bytes": peak.bytes,
        "resident_bytes": rss.bytes,
        "allocator_error": predicted / peak.bytes - 1,
        "formula_error": formula / peak.bytes - 1,
        "resident_error": (predicted + kept) / rss.bytes - 1 if rss.bytes else None,
        "whole_resident_error": (rest + predicted + kept) / (before + rss.bytes) - 1 if rss.bytes else None,
        "kept_back_bytes": kept,
        "predicted_seconds": seconds,
        "predicted_seconds_by_phase": planned.seconds,
        "processor_seconds": cpu,
        "wall_seconds": wall,
        "time_error": seconds / cpu - 1,
        "step_seconds": [value for _, name, value in metrics if name == "time/step"],
        "counting_seconds": counted - began,
        "probe_seconds": probing,
        "corrections": vars(planned.probed.correction) if planned.probed else None,
    }


def beyond_base(peak: Any) -> float:
    """Sum what tensors take besides the base."""
    return peak.total - sum(peak.parts[part] for part in ("base", "heap", "runtime"))


def make_base(folder: Path, arch: str) -> Path:
    """Save a random base with a larger vocabulary than its tokenizer has."""
    import torch
    from transformers import AutoModelForCausalLM

    from tests import tiny

    config = tiny.config(arch, **MODELS[arch])
    config.vocab_size = VOCABULARY
    config.max_position_embeddings = 1024
    if arch == "qwen3":
        config.num_attention_heads, config.head_dim = 6, 32
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def fill(engine: Any, texts: int, stage: str) -> None:
    """Put demonstrations, votes and prompts of about `texts` × 60 and 40 letters into the workspace."""
    from lorarlhf.engine.training import train
    from lorarlhf.settings import RewardSettings, SamplingSettings
    from lorarlhf.types import Comparison, Demonstration, Outcome, user

    rng = random.Random(0)

    def text(letters: int) -> str:
        words = ""
        while len(words) < rng.uniform(0.5, 1.5) * letters:
            words += rng.choice(WORDS) + " "
        return words.strip()

    def votes(count: int) -> list[Comparison]:
        return [
            Comparison(user(text(60 * texts)), text(40 * texts), text(40 * texts), rng.choice([Outcome.A, Outcome.B]))
            for _ in range(count)
        ]

    engine.store.add_demonstrations(Demonstration(user(text(60 * texts)), text(40 * texts)) for _ in range(64))
    if stage != "ppo":
        engine.store.add_comparisons(votes(48))
        return
    # PPO judges with a reward model, and its answers are as long as those the base draws.
    engine.store.add_comparisons(votes(4))
    train(engine, "reward", RewardSettings(epochs=1, heldout_share=0.0))
    for row in engine.store.comparisons():
        engine.store.undo("comparisons", row.id)
    engine.store.add_prompts([user(text(60 * texts)) for _ in range(48)])
    if engine.load_settings.base != "starter":
        return  # answers of random bases are as long as they may be
    asked = [user(text(60 * texts)) for _ in range(16)]
    answers = engine.generate(asked, 2, SamplingSettings(max_new_tokens=32))
    engine.store.add_comparisons(
        Comparison(prompt, a.text, b.text, Outcome.TIE) for prompt, (a, b) in zip(asked, answers, strict=True)
    )


# -- all of them ----------------------------------------------------------------------------------------------


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Find the worst errors and the cases beyond the aims."""

    def worst(key: str) -> float:
        return max((abs(row[key]) for row in rows if row[key] is not None), default=0.0)

    return {
        "cases": len(rows),
        "aims": {"memory": MEMORY_AIM, "time": TIME_AIM},
        "worst": {key: round(worst(key), 3) for key in ERRORS},
        "beyond": {
            key: [name_of(row) for row in rows if row[key] is not None and abs(row[key]) > aim]
            for key, aim in ERRORS.items()
        },
    }


ERRORS = {
    "allocator_error": MEMORY_AIM,
    "formula_error": MEMORY_AIM,
    "resident_error": MEMORY_AIM,
    "whole_resident_error": MEMORY_AIM,
    "time_error": TIME_AIM,
}


def name_of(row: dict[str, Any]) -> str:
    """Name a case in one line."""
    s = row["settings"]
    check = " checkpointing" if s.get("gradient_checkpointing") else ""
    texts = f" texts×{row['texts']}" if row["texts"] > 1 else ""
    sizes = f"rank {s['rank']} batch {s['batch_size']}/{s['micro_batch_tokens']}"
    return f"{row['stage']} {row['model']} {row['compute']} {row['bits']}-bit {sizes}{check}{texts}"


def main() -> None:
    """Run the grid, or one case of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="run the cases whose name contains this")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(run_case(json.loads(arguments.case))))
        return
    rows, began = [], time.perf_counter()
    for case in grid():
        if arguments.only not in name_of(case):
            continue
        command = [sys.executable, "-m", "benchmarks.plan_check", "--case", json.dumps(case)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name_of(case)}: {done.stderr[-2000:]}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        shown = "  ".join(f"{key.removesuffix('_error')} {rows[-1][key]:+.1%}" for key in ERRORS if rows[-1][key])
        print(f"{name_of(case):<64} {rows[-1]['allocator_bytes'] / 2**20:7.0f} MB  {shown}", file=sys.stderr)
    result = {"summary": summary(rows), "seconds": round(time.perf_counter() - began, 1), "rows": rows}
    print(json.dumps(result, indent=2))
    print(json.dumps(result["summary"], indent=2), file=sys.stderr)


if __name__ == "__main__":
    main()
