"""Examine this machine: what it has, what fits on it, what is missing and the command that mends it.

Works when torch or bitsandbytes are missing or broken; that is when it is needed. Nothing is created or downloaded.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lorarlhf.plan.memory import CONTEXT_BYTES, PROCESS_BYTES, Demand, Drawing, Load, phases
from lorarlhf.plan.planning import make_plan
from lorarlhf.plan.shapes import SHAPES
from lorarlhf.preset import preset_for
from lorarlhf.settings import PPOSettings

Findings = dict[str, Any]
SHOWN = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "gradio")
LOW_DISK = 5 * 2**30
ROWS, TOKENS = 16, 512
"""Answers drawn side by side, and their tokens with the prompt."""
TRAINED = PPOSettings(gradient_checkpointing=True, batch_size=ROWS, rollout_rows=ROWS)
"""What training is estimated with."""


def examine(workspace: Path | str | None = None) -> Findings:
    """Collect findings as plain JSON values; `problems` lists what stops the program, `notes` what limits it.

    Sizes are bytes. Each problem is `{"what", "fix"}`, `fix` being a command or an instruction.
    """
    findings: Findings = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {},
        "devices": [],
        "device": None,
        "fits": [],
        "workspace": {},
        "problems": [],
        "notes": [],
    }
    _examine_packages(findings)
    _examine_devices(findings)
    _examine_fits(findings)
    _examine_workspace(findings, Path(workspace) if workspace else _default_workspace())
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        _note(findings, "HF_HUB_OFFLINE is set: only the starter, local folders and cached bases load")
    findings["ok"] = not findings["problems"]
    return findings


def preset_name(asked: str) -> str:
    """Replace `auto` by the preset for this machine; any other name stays."""
    if asked != "auto":
        return asked
    from lorarlhf.hardware import pick_device, total_bytes

    device = pick_device("auto")
    return preset_for(device.type, total_bytes(device))


def render(findings: Findings) -> str:
    """Write the findings as text for a terminal."""
    versions = ", ".join(f"{name} {version or 'missing'}" for name, version in findings["versions"].items())
    lines = [f"Python      {findings['python']} on {findings['system']}", f"Packages    {versions}"]
    for device in findings["devices"]:
        mark = "*" if device["id"] == findings["device"] else " "
        four = "4-bit works" if not device["four_bit_problem"] else "no 4-bit"
        bf16 = "bf16" if device["bf16"] else "no bf16"
        free = f"{_size(device['free_bytes'])} of {_size(device['total_bytes'])} free"
        lines.append(f"Device    {mark} {device['id']}: {device['name']}, {free}, {bf16}, {four}")
    space = findings["workspace"]
    if space:
        writable = "writable" if space["writable"] else "NOT writable"
        lines.append(f"Workspace   {space['path']}: {writable}, {_size(space['free_bytes'])} free")
    if findings["fits"]:
        lines += ["", f"What fits on {findings['device']} at 4 bits (estimates, with room for {_ASSUMED}):"]
        for row in findings["fits"]:
            rate, train = ("yes" if row[key] else "no" for key in ("rate", "train"))
            need = f"{_size(row['rate_bytes']):>9}  train {train:<3} {_size(row['train_bytes']):>9}"
            lines.append(f"  {row['base']:<14} rate {rate:<3} {need}")
    lines += ["", *(f"Note: {note}" for note in findings["notes"])] if findings["notes"] else []
    lines.append("")
    for problem in findings["problems"]:
        lines += [f"Problem: {problem['what']}", f"    mend it: {problem['fix']}"]
    if not findings["problems"]:
        lines.append("Everything needed is here.")
    return "\n".join(lines)


_ASSUMED = f"{ROWS} answers of {TOKENS} tokens, or PPO with gradient checkpointing; `lorarlhf plan` knows more"


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _problem(findings: Findings, what: str, fix: str) -> None:
    findings["problems"].append({"what": what, "fix": fix})


def _note(findings: Findings, text: str) -> None:
    findings["notes"].append(text)


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _examine_packages(findings: Findings) -> None:
    findings["versions"] = {name: _installed(name) for name in SHOWN}
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(text) for text in importlib.metadata.requires("lorarlhf") or ()]
    except (ImportError, importlib.metadata.PackageNotFoundError):
        _note(findings, "lorarlhf runs from a source folder; `pip install -e .` lets doctor compare versions")
        wanted = []
    for need in wanted:
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        version = _installed(need.name)
        fix = f'pip install -U "{need.name}{need.specifier}"'
        if version is None:
            _problem(findings, f"{need.name} is not installed", fix)
        elif not need.specifier.contains(version, prereleases=True):
            _problem(findings, f"{need.name} {version} is not {need.specifier}", fix)


def _examine_devices(findings: Findings) -> None:
    try:
        import torch

        from lorarlhf import hardware
    except (ImportError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        _problem(findings, f"torch can't be imported ({reason})", 'pip install -U "torch>=2.8,<2.14"')
        return
    found = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if torch.xpu.is_available():
        found += [torch.device("xpu", index) for index in range(torch.xpu.device_count())]
    found += [torch.device("mps")] if torch.backends.mps.is_available() else []
    for device in [*found, torch.device("cpu")]:
        findings["devices"].append(_device(device))
    findings["device"] = str(hardware.pick_device("auto"))
    chosen = next(row for row in findings["devices"] if row["id"] == findings["device"])
    if chosen["four_bit_problem"]:
        _problem(
            findings,
            f"bitsandbytes does not work on {chosen['id']} ({chosen['four_bit_problem']})",
            "pip install -U 'bitsandbytes>=0.50', or load bases in 16 bits",
        )
    if chosen["free_bytes"] < 0.8 * chosen["total_bytes"] and chosen["id"] != "cpu":
        _note(findings, f"other programs use part of {chosen['id']}; closing them makes room for larger bases")
    if chosen["id"] == "cpu":
        _examine_missing_gpu(findings, torch.version.cuda)


def _examine_missing_gpu(findings: Findings, cuda_build: str | None) -> None:
    """Tell a machine without a card from a card that torch does not see."""
    if shutil.which("nvidia-smi") is None:
        _note(findings, "no GPU: the starter base works well on the processor, larger ones only slowly")
    elif cuda_build is None:
        fix = 'pip install -U --force-reinstall "torch>=2.8,<2.14" --index-url https://download.pytorch.org/whl/cu128'
        _problem(findings, "this machine has NVIDIA's driver, but the installed torch is built without CUDA", fix)
    else:
        _problem(
            findings,
            f"torch is built for CUDA {cuda_build} but finds no card",
            "run nvidia-smi; if it fails, install a newer NVIDIA driver; if not, look at CUDA_VISIBLE_DEVICES",
        )


def _device(device: Any) -> dict[str, Any]:
    import torch

    from lorarlhf import hardware

    bf16, why = hardware.has_bf16(device)
    free = hardware.free_bytes(device)
    if device.type in ("cuda", "xpu"):
        name = getattr(torch, device.type).get_device_properties(device).name
    else:
        name = f"{os.cpu_count()} cores" if device.type == "cpu" else "Apple GPU"
    return {
        "id": str(device),
        "name": name,
        "total_bytes": hardware.total_bytes(device),
        "free_bytes": int(free),
        "bf16": bf16,
        "bf16_why": why,
        "four_bit_problem": hardware.why_no_quantisation(device),
    }


def _examine_fits(findings: Findings) -> None:
    chosen = next((row for row in findings["devices"] if row["id"] == findings["device"]), None)
    if chosen is None:
        return
    kind, item = chosen["id"].partition(":")[0], 2 if chosen["bf16"] else 4
    # What this process takes is part of the estimate, and taken already.
    free = chosen["free_bytes"] + (PROCESS_BYTES if kind == "cpu" else CONTEXT_BYTES)
    for shape in SHAPES:
        load = Load(shape, 4, item, kind)
        drawing = Demand(trained=(), frozen=(16,), draw=(Drawing(ROWS, TOKENS // 2, TOKENS // 2),), keeps_best=False)
        rate = phases(load, drawing)[0].total
        train = make_plan("ppo", TRAINED, load).peak.total
        findings["fits"].append(
            {
                "base": shape.name,
                "rate": rate <= free,
                "rate_bytes": rate,
                "train": train <= free,
                "train_bytes": train,
            }
        )


def _default_workspace() -> Path:
    from lorarlhf.workspace import default_path

    return default_path()


def _examine_workspace(findings: Findings, path: Path) -> None:
    """Try to write where the workspace is, or where it would be made."""
    path = path.expanduser().absolute()
    place = next(folder for folder in (path, *path.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    try:
        with tempfile.TemporaryFile(dir=place):
            writable = True
    except OSError:
        writable = False
    findings["workspace"] = {"path": str(path), "exists": path.is_dir(), "writable": writable, "free_bytes": free}
    if not writable:
        _problem(findings, f"can't write in {place}", "pass --workspace DIR, or set LORARLHF_HOME to a folder of yours")
    elif free < LOW_DISK:
        _note(findings, f"only {_size(free)} of disk left at {place}; bases take 1 to 20 GiB, checkpoints 0.1 to 1 GiB")
