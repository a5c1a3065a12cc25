"""Peak memory by stage and by role, what another adapter costs, and PPO's peak over that of SFT.

    python -m benchmarks.memory [--critic head|none] [--out FILE]

A random base of 30M in 4 bits, LoRA of rank 16 on all linear layers, sequences of 96 tokens (in PPO a prompt of 32 and
an answer of 64), micro-batches of 1,024 tokens in every stage, so that the same tokens are in flight. Each case runs in
a process of its own and makes two steps; the second one, when the optimizer has its moments, is looked at role by role.

- `peak_bytes`: base, adapters, optimizer and all else at the peak of the stage, by torch's allocator
- `resident_bytes`: the most that the resident memory of the process grew by, the base not counted
- `roles`: what each role's passes take beyond what stood before them; `kept` of it stays, gradients mostly
- `adapters`: SFT with one adapter in memory and with five

Prints one JSON object. Allocator peaks do not depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.critics import add_critic
from benchmarks.peers.turns import run_side
from benchmarks.peers.workloads import make_base
from benchmarks.record import circumstances, write

PROMPT, ANSWER = 32, 64
"""Tokens of every sequence, so that all stages have the same in flight."""
IN_FLIGHT = 1024
"""Tokens of a micro-batch."""
STAGES = ("sft", "reward", "ppo")
EXTRA = 4
"""Adapters besides the one that is trained."""
ASKED = 1.25
"""PPO's peak over that of SFT, at most."""

Case = dict[str, Any]


# -- one case, in its own process -----------------------------------------------------------------------------


def measure(case: Case, base: str, device: str) -> dict[str, Any]:
    """Run one case: the whole stage by allocator or resident memory, or its second step role by role."""
    from benchmarks.stages import make_stage
    from lorarlhf.adapters import AdapterBank
    from lorarlhf.base import load_base
    from lorarlhf.plan.peak import allocated, resident
    from lorarlhf.settings import LoadSettings

    loaded = load_base(LoadSettings.parse({"base": base, "bits": 4, "device": device}))
    loaded = replace(loaded, eos_ids=frozenset())

    def stage() -> Any:
        made = make_stage(case["stage"], AdapterBank(loaded), PROMPT, ANSWER, IN_FLIGHT, critic=case["critic"])
        for number in range(case["extra"]):
            made.studio.bank.copy(made.trained, f"extra-{number}")
        return made

    if case["by"] == "role":
        made = stage()
        made.step(0)
        with watched(made) as roles:
            made.step(1)
        bank = made.studio.bank
        return {"roles": roles, "adapter_bytes": {name: bank.bytes_of(name) for name in bank.names}}
    with allocated(loaded.device) if case["by"] == "allocator" else resident() as peak:
        made = stage()
        for step in range(2):
            made.step(step)
    if case["by"] == "resident":
        return {"resident_bytes": peak.bytes}
    return {"peak_bytes": loaded.report.bytes_on_device + peak.bytes, "base_bytes": loaded.report.bytes_on_device}


@contextmanager
def watched(stage: Any) -> Iterator[list[dict[str, Any]]]:
    """Note the peak of every block in which one role is active, in their order."""
    from lorarlhf.plan.peak import allocated
    from lorarlhf.train import rollout

    bank, found = stage.studio.bank, []
    activate, phases = bank.activate, ["update"]

    @contextmanager
    def noted(name: str | None) -> Iterator[None]:
        with allocated(stage.device) as peak, activate(name):
            yield
        found.append({"phase": phases[-1], "role": name or "bare base", "peak_bytes": peak.bytes, "kept": peak.left})

    def told(phase: str, action: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any, **kwargs: Any) -> Any:
            phases.append(phase)
            try:
                return action(*args, **kwargs)
            finally:
                phases.pop()

        return inside

    draw = rollout.draw
    bank.activate = noted
    if hasattr(stage, "roll_out"):
        stage.roll_out = told("scoring", stage.roll_out)
        rollout.draw = told("sampling", draw)
    try:
        yield found
    finally:
        del bank.activate
        rollout.draw = draw
        vars(stage).pop("roll_out", None)


# -- all of them ----------------------------------------------------------------------------------------------


def compare(base: Path, device: str, critic: str) -> dict[str, Any]:
    """Run all cases and put them side by side."""

    def run(stage: str, by: str, extra: int = 0) -> dict[str, Any]:
        case = {"stage": stage, "by": by, "extra": extra, "critic": critic}
        return run_side("benchmarks.memory", "--case", json.dumps(case), "--base", base, "--device", device)

    stages = {stage: run(stage, "allocator") | run(stage, "resident") | run(stage, "role") for stage in STAGES}
    one, five = stages["sft"], run("sft", "allocator", EXTRA) | run("sft", "resident", EXTRA)
    return {
        "tokens": {"prompt": PROMPT, "answer": ANSWER, "in_flight": IN_FLIGHT},
        "critic": critic,
        "asked": {"ppo_over_sft": ASKED},
        "ppo_over_sft": stages["ppo"]["peak_bytes"] / one["peak_bytes"],
        "ppo_over_sft_resident": stages["ppo"]["resident_bytes"] / max(1, one["resident_bytes"]),
        "stages": stages,
        "adapters": {
            "one_peak_bytes": one["peak_bytes"],
            "five_peak_bytes": five["peak_bytes"],
            "one_resident_bytes": one["resident_bytes"],
            "five_resident_bytes": five["resident_bytes"],
            "each_costs": (five["peak_bytes"] - one["peak_bytes"]) / EXTRA,
            "weights_of_each": one["adapter_bytes"]["trained"],
        },
    }


def main() -> None:
    """Run all cases, or the one a process of its own was started for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    add_critic(parser)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    parser.add_argument("--base", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(json.loads(args.case), args.base, args.device)))
        return
    with tempfile.TemporaryDirectory() as folder:
        found = compare(make_base(Path(folder) / "base"), args.device, args.critic)
    write(circumstances() | found, args.out)


if __name__ == "__main__":
    sys.exit(main())
