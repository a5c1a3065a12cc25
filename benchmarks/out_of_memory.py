"""Does a run survive memory running out, wherever it may? Each place in the code that computes with tensors fails once.

    python -m benchmarks.out_of_memory [--stage sft|reward|ppo] [--kind step|evaluate|finish]

A tiny run of each stage is made undisturbed. Then it is made again, and in its first step, its first measurement and
its last one every place fails in turn: a place is an operation together with the lines of this program and of its
libraries that led to it, so that each is visited once and not in every layer. The action is tried anew until all of
them have failed. In the end every number and every weight must be the undisturbed run's, to the bit. Prints one JSON
object; exits with 1 where a run stopped or a number differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from lorarlhf.base import load_base
from lorarlhf.data.cutting import Budget
from lorarlhf.settings import LoadSettings
from lorarlhf.train import loop as loop_module
from tests import tiny
from tests.faulty import MAKERS, Failing, Places, finished, on_its_way, same, tensors_of

KINDS = ("step", "evaluate", "finish")


def exhausted() -> torch.OutOfMemoryError:
    """Make the error that a card raises."""
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def fail_at_every_place(stage: Any, kinds: tuple[str, ...]) -> dict[str, int]:
    """Make the first action of each kind fail at every place before it succeeds → places by kind, filled on the way."""
    places = dict.fromkeys(kinds, 0)
    for kind in kinds:
        real = getattr(stage, kind)
        waiting: list[int] | None = None

        def failing(*args: Any, kind: str = kind, real: Any = real) -> Any:
            nonlocal waiting
            if not places[kind]:
                with Places() as seen:
                    real(*args)
                waiting = sorted(seen.first.values(), reverse=True)
                places[kind] = len(waiting)
                raise exhausted()  # all of it was done, its changes included
            if waiting:
                with Failing(waiting.pop(), exhausted):
                    real(*args)
                raise AssertionError(f"{kind} did not come as far as the last time")
            return real(*args)

        setattr(stage, kind, failing)
    return places


def try_stage(base: Any, name: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """Make both runs and compare them."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        final, numbers, tensors, _ = finished(base, MAKERS[name], Path(folder) / "whole")
        with on_its_way(base, MAKERS[name], Path(folder) / "run", every=0) as loop:
            places = fail_at_every_place(loop.stage, kinds)
            try:
                ended, problem = loop.run(), ""
            except Exception as error:
                ended, problem = None, f"{type(error).__name__}: {error}"
            equal = ended == final and loop.journal.numbers == numbers and same(tensors_of(loop.stage), tensors)
    seconds = time.perf_counter() - began
    return {"stage": name, "places": places, "equal": equal, "problem": problem, "seconds": round(seconds, 1)}


def main() -> None:
    """Parse the arguments, try, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=tuple(MAKERS), action="append")
    parser.add_argument("--kind", choices=KINDS, action="append")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the faster way for tensors so small
    # As large as before: then the numbers are the same to the bit. Smaller passes are the tests' affair.
    Budget.halve = lambda budget: "so much → less"  # type: ignore[method-assign]
    loop_module.make_room = lambda device: None  # type: ignore[assignment]
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        model = tiny.save(Path(folder) / "base")
        base = load_base(LoadSettings(base=str(model), compute="fp32", device="cpu"))
        for name in args.stage or MAKERS:
            results.append(try_stage(base, name, tuple(args.kind or KINDS)))
            print(results[-1], file=sys.stderr)
    print(json.dumps(results, indent=2))
    sys.exit(not all(result["equal"] for result in results))


if __name__ == "__main__":
    main()
