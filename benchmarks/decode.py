"""Tokens per second of decoding here and by transformers, and what the memory's bandwidth allows, by rows side by side.

    python -m benchmarks.decode [--base FOLDER] [--rows 1 4 16 32] [--tokens 32] [--pairs 3] [--out FILE]

Both sides (`generate` of transformers on plain peft is the other) load the same base in NF4 with the same LoRA, draw
with temperature 1 from the whole vocabulary, and never end early; each has a process of its own, in turns. The bound is
what reading alone would take: every weight once a step, and keys and values of all rows, at the bandwidth this machine
shows on an array far beyond its caches. Unless a base is given, it is a random one of 110M, whose weights no cache of a
processor holds. Prints one JSON object; nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.peers.decoding import DecodeWork
from benchmarks.peers.turns import run_side
from benchmarks.peers.workloads import RANK, make_base
from benchmarks.record import circumstances, write
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import Base, load_base
from lorarlhf.plan.memory import cache_bytes
from lorarlhf.plan.shapes import shape_of
from lorarlhf.settings import LoadSettings, LoraSettings

SIDES = {"here": "benchmarks.peers.decode_here", "transformers": "benchmarks.peers.decode_transformers"}
RANDOM = {"layers": 12, "hidden": 768, "inner": 2048, "vocabulary": 32_768}
"""Shape of the random base."""
ARRAY_BYTES = 2**29
"""What the bandwidth is measured on: no cache holds it."""


def bandwidth(device: torch.device, size: int = ARRAY_BYTES, repeats: int = 5) -> dict[str, float]:
    """Measure bytes per second of reading an array, and of copying it, which moves every byte twice."""
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    return {
        "read": size / min(_seconds(source.sum, device) for _ in range(repeats)),
        "copy": 2 * size / min(_seconds(lambda: target.copy_(source), device) for _ in range(repeats)),
    }


def _seconds(action: Callable[[], Any], device: torch.device) -> float:
    began = time.perf_counter()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def weight_bytes(base: Base, adapter: int) -> int:
    """Count what a step reads whatever the rows: all weights but a table of embeddings that is only looked up."""
    inner, outer = base.model.get_input_embeddings().weight, base.model.get_output_embeddings().weight
    looked_up = 0 if inner.data_ptr() == outer.data_ptr() else inner.nbytes
    return base.report.bytes_on_device - looked_up + adapter


def bound(base: Base, weights: int, work: DecodeWork, rows: int, bytes_per_second: float) -> float:
    """Return the tokens per second at which reading weights, keys and values takes the whole time."""
    shape = shape_of(base.model.config, work.base)
    # Halfway through the answer; what is written of the new token is not counted.
    cache = cache_bytes(shape, rows, work.prompt + work.tokens // 2, base.compute_dtype.itemsize)
    return rows * bytes_per_second / (weights + cache)


def prepare(base: str, folder: Path, rows: list[int], tokens: int, prompt: int = 32) -> tuple[DecodeWork, Base, int]:
    """Save an adapter for both sides → the work, the loaded base, the bytes of the adapter."""
    loaded = load_base(LoadSettings(base=base, bits=4))
    bank = AdapterBank(loaded)
    bank.create("decoding", LoraSettings(rank=RANK, alpha=2 * RANK), seed=1)
    with torch.no_grad():  # an untrained LoRA changes nothing; this one does
        for weight in bank.parameters("decoding"):
            weight.normal_(0.0, 0.02, generator=torch.Generator(weight.device).manual_seed(1))
    bank.save("decoding", folder / "decoding", {})
    work = DecodeWork(str(loaded.folder), str(folder / "decoding"), loaded.device.type, prompt, tokens, rows)
    return work, loaded, bank.bytes_of("decoding")


def compare(work: DecodeWork, base: Base, adapter: int, path: Path, pairs: int) -> dict[str, Any]:
    """Measure both sides in turns, and the bound."""
    path.write_text(json.dumps(asdict(work)))
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for pair in range(pairs):
        for side in sorted(SIDES, reverse=bool(pair % 2)):
            runs[side].append(run_side(SIDES[side], path))
    speeds = bandwidth(base.device)
    weights = weight_bytes(base, adapter)
    found = []
    for rows in work.rows:
        sides = {side: statistics.median(run[str(rows)] for run in runs[side]) for side in SIDES}
        most = bound(base, weights, work, rows, max(speeds.values()))
        times = statistics.median(
            a[str(rows)] / b[str(rows)] for a, b in zip(runs["here"], runs["transformers"], strict=True)
        )
        found.append({"rows": rows, **sides, "times_transformers": times, "bound": most, "share": sides["here"] / most})
    return {
        "base": {
            "parameters": base.report.parameters,
            "bytes_read_per_step": weights,
            "dtype": str(base.compute_dtype),
        },
        "prompt": work.prompt,
        "tokens": work.tokens,
        "bytes_per_second": speeds,
        "tokens_per_second": found,
    }


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", help="folder or Hub id of a base; a random one unless given")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--tokens", type=int, default=32, help="tokens of every answer")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = args.base or str(make_base(folder / "base", **RANDOM))
        work, loaded, adapter = prepare(base, folder, args.rows, args.tokens)
        found = compare(work, loaded, adapter, folder / "work.json", args.pairs)
    write(circumstances() | found, args.out)


if __name__ == "__main__":
    main()
