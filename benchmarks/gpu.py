"""What fits on a card and how fast it is: SFT, reward model, PPO and decoding on bases of 1.7B to 32B, under caps.

    python -m benchmarks.gpu [--shape Qwen3-4B …] [--cap 8 …] [--out FILE]
    python -m benchmarks.gpu --shape tiny --device cpu        # the same code on a miniature, in seconds

Bases are random NF4 weights in the shape of well-known ones, made on the card (no download). For every base, first with
the whole card and then with torch's allocator capped at what a card of 8, 12, 16, 24 and 48 GB leaves (less what CUDA
itself takes), each stage makes two steps on sequences of 512 tokens, the second timed: batches of 16, LoRA of rank 16,
gradient checkpointing, micro-batches of 2,048 tokens, halved as in a real run when memory runs out. PPO draws answers
of 256 tokens to prompts of 256. What does not fit is a row that says so; decoding is timed on the whole card alone. On
a processor the caps are ignored.

Prints one JSON object and writes it to `benchmarks/results/gpu-CARD.json`, again after every base, of which each has a
process of its own; rows of other bases that stand there stay, each with the commit it was measured at.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import LoraLayer

from benchmarks.random_base import make_base
from benchmarks.record import circumstances, write
from benchmarks.stages import make_stage
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import Base
from lorarlhf.errors import BaseModelError
from lorarlhf.hardware import is_out_of_memory, make_room, pick_device
from lorarlhf.plan.memory import CONTEXT_BYTES
from lorarlhf.plan.peak import allocated
from lorarlhf.plan.shapes import Shape, known
from lorarlhf.sampling import complete
from lorarlhf.settings import LoraSettings, SamplingSettings

RESULTS = Path(__file__).parent / "results"
SHAPES = ("Qwen3-1.7B", "Qwen3-4B", "Llama-3.1-8B", "Qwen3-14B", "Qwen3-32B")
TINY = Shape("tiny", 2, 64, 192, 64, 32, 2048, True, 4, 1024, head_norms=True)
"""A miniature Qwen3, to run the same code where there is no card."""
CAPS = (8, 12, 16, 24, 48)
"""GB of the cards that are played."""
STAGES = ("sft", "reward", "ppo")

Row = dict[str, Any]


class Sizes(NamedTuple):
    """How much is done at a time."""

    prompt: int = 256
    answer: int = 256
    in_flight: int = 2048
    batch: int = 16
    decoded: int = 128
    """Tokens of an answer where only decoding is timed."""
    rows: tuple[int, ...] = (1, 8, 32)
    """Answers drawn side by side where only decoding is timed."""


SMALL = Sizes(prompt=8, answer=8, in_flight=64, batch=4, decoded=4, rows=(1, 2))


# -- one base, in its own process -----------------------------------------------------------------------------


def measure(shape: Shape, device: torch.device, caps: list[int], sizes: Sizes) -> list[Row]:
    """Run everything on one base: with all memory, then under each cap, the largest first."""
    rows: list[Row] = []
    base: Base | None = None

    def build() -> Row:
        nonlocal base
        base = make_base(shape, device)
        return {"base_bytes": base.report.bytes_on_device, "parameters": base.report.parameters}

    built = _row({"shape": shape.name, "work": "base", "cap_gb": None}, device, build)
    if base is None:
        return [built]
    for cap in (None, *sorted(caps, reverse=True)):
        _set_cap(device, cap)
        told = {"shape": shape.name, "cap_gb": cap}
        need = base.report.bytes_on_device
        if cap and device.type == "cuda" and need > cap * 2**30 - CONTEXT_BYTES:
            rows.append({**told, "work": "base", "fits": False, "why": f"its weights take {need / 2**30:.1f} GiB"})
            continue
        work: list[tuple[Row, Callable[[], Row]]] = [
            *(({"work": stage}, _stage_work(base, stage, sizes)) for stage in STAGES),
            *(({"work": "decode", "rows": side}, _decode_work(base, side, sizes)) for side in sizes.rows if not cap),
        ]
        for named, do in work:
            rows.append(_row(told | named, device, do))
            if any(isinstance(module, LoraLayer) for module in base.model.modules()):
                rows[-1]["why"] += "; broke off while adapters were put on, nothing was measured after it"
                return [built, *rows]
    return [built, *rows]


def _row(told: Row, device: torch.device, work: Callable[[], Row]) -> Row:
    """Do a piece of work → its row; want of memory is a row like any other."""
    try:
        with allocated(device) as peak:
            found = work()
        row = {**told, "fits": True, **found, "work_bytes": peak.bytes}
        if device.type == "cuda":
            row["peak_bytes"] = torch.cuda.max_memory_allocated(device)
            row["reserved_bytes"] = torch.cuda.max_memory_reserved(device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        row = {**told, "fits": False, "why": " ".join(str(error).split())[:200]}
    # Outside the handler: until it ends, the error keeps the frames it went through, and they keep their tensors.
    make_room(device)
    return row


def _stage_work(base: Base, kind: str, sizes: Sizes) -> Callable[[], Row]:
    def work() -> Row:
        bank = AdapterBank(base)
        try:
            stage = make_stage(
                kind, bank, sizes.prompt, sizes.answer, sizes.in_flight, batch=sizes.batch, checkpointing=True
            )
            _step(stage, 0)
            seconds = _step(stage, 1)
        finally:
            _clear(bank)
        per_step = sizes.batch * (2 if kind == "reward" else 1)
        return {
            "seconds_per_step": seconds,
            "examples_per_second": sizes.batch / seconds,
            "tokens_per_second": per_step * (sizes.prompt + sizes.answer) / seconds,
            "micro_batch_tokens": stage.budget.tokens,
            "rollout_rows": stage.budget.rows if kind == "ppo" else None,
        }

    return work


def _step(stage: Any, index: int) -> float:
    """Make a step, with less at a time where memory runs out → its seconds, those of attempts that failed left out."""
    while True:
        stage.budget.begin()
        began = time.perf_counter()
        try:
            stage.step(index)
            _finish(stage.device)
            return time.perf_counter() - began
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not stage.budget.halve():
                raise
        for name in stage.studio.bank.names:
            for parameter in stage.studio.bank.parameters(name):
                parameter.grad = None
        make_room(stage.device)


def _decode_work(base: Base, rows: int, sizes: Sizes) -> Callable[[], Row]:
    def work() -> Row:
        bank = AdapterBank(base)
        words = torch.Generator().manual_seed(rows)
        prompts = torch.randint(8, base.vocabulary, (rows, sizes.prompt), generator=words).tolist()
        try:
            bank.create("decoding", LoraSettings(rank=16, alpha=32))
            seconds = []
            for tokens in (1, sizes.decoded):  # the first run reads the prompts alone
                settings = SamplingSettings(max_new_tokens=tokens, batch_rows=rows)
                with bank.drawing("decoding"):
                    complete(base, prompts, settings)
                    _finish(base.device)
                    began = time.perf_counter()
                    complete(base, prompts, settings)
                    _finish(base.device)
                seconds.append(time.perf_counter() - began)
        finally:
            _clear(bank)
        read, whole = seconds
        return {
            "tokens_per_second": rows * (sizes.decoded - 1) / max(1e-9, whole - read),
            "prompt_seconds": read,
        }

    return work


def _clear(bank: AdapterBank) -> None:
    """Take the adapters off the base, which the next piece of work uses again."""
    for name in bank.names:
        bank.delete(name)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _set_cap(device: torch.device, cap: int | None) -> None:
    """Let torch take no more than what is left of a card of `cap` GB when CUDA itself has taken its part."""
    if device.type != "cuda":
        return
    whole = torch.cuda.get_device_properties(device).total_memory
    part = 1.0 if cap is None else (cap * 2**30 - CONTEXT_BYTES) / whole
    torch.cuda.set_per_process_memory_fraction(min(1.0, part), device)


# -- all of them ----------------------------------------------------------------------------------------------


def shape_named(name: str) -> Shape:
    """Find a shape by its name; end the program with the names there are."""
    shape = TINY if name == "tiny" else known(name)
    if shape is None:
        raise SystemExit(
            f"no shape {name}; there are: tiny, {', '.join(SHAPES)} and the others of lorarlhf/plan/shapes.py"
        )
    return shape


def run_all(names: list[str], device: torch.device, caps: list[int], out: Path) -> None:
    """Measure every base in a process of its own, and write down each; one that breaks down is a row too."""
    known = json.loads(out.read_text())["rows"] if out.exists() else []
    rows: list[Row] = [row for row in known if row["shape"] not in names]
    for name in names:
        command = [sys.executable, "-m", "benchmarks.gpu", "--one", "--shape", name, "--device", device.type, "--cap"]
        done = subprocess.run([*command, *map(str, caps)], capture_output=True, text=True, check=False)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ["no word"])[-1]
            rows.append({"shape": name, "work": "base", "cap_gb": None, "fits": False, "why": why[:300]})
        else:
            rows += json.loads(done.stdout.splitlines()[-1])
        found = circumstances()
        rows = [{"commit": found["commit"], **row} for row in rows]  # those that were there have theirs
        print(f"{name}: {sum(row['shape'] == name for row in rows)} rows", file=sys.stderr)
        write(found | {"sizes": Sizes()._asdict(), "rows": rows}, out)


def main() -> None:
    """Parse the arguments, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", default=list(SHAPES))
    parser.add_argument("--cap", type=int, nargs="*", default=list(CAPS), help="GB")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    shapes = [shape_named(name) for name in args.shape]
    try:
        device = pick_device(args.device)
    except BaseModelError as error:
        raise SystemExit(str(error)) from None
    if args.one:
        print(json.dumps(measure(shapes[0], device, args.cap, SMALL if shapes[0] is TINY else Sizes())))
        return
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    out = args.out or RESULTS / f"gpu-{re.sub('[^a-z0-9]+', '-', card.lower()).strip('-')}.json"
    run_all(args.shape, device, args.cap, out)


if __name__ == "__main__":
    main()
