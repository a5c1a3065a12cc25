"""The doctor: plain values, right numbers, and a command for everything that is missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from lorarlhf import doctor, hardware
from lorarlhf.doctor import examine, render
from lorarlhf.plan.shapes import SHAPES


def problem(findings: dict[str, Any], word: str) -> dict[str, str]:
    found = [row for row in findings["problems"] if word in row["what"]]
    assert len(found) == 1, findings["problems"]
    assert found[0]["fix"]
    assert found[0]["fix"] in render(findings)
    assert not findings["ok"]
    return found[0]


def test_findings_are_plain_values_and_render(tmp_path: Path) -> None:
    findings = examine(tmp_path / "deep" / "workspace")
    assert json.loads(json.dumps(findings)) == findings
    assert not (tmp_path / "deep").exists()
    assert findings["versions"]["torch"] == torch.__version__
    assert findings["device"] in [device["id"] for device in findings["devices"]]
    text = render(findings)
    assert str(tmp_path / "deep" / "workspace") in text
    assert "4-bit works" in text
    if findings["ok"]:
        assert text.endswith("Everything needed is here.")


def test_workspace_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    assert "LORARLHF_HOME" in problem(examine(tmp_path), "can't write")["fix"]


def test_broken_bitsandbytes_is_named_with_its_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "why_no_quantisation", lambda device: "no kernel image")
    found = problem(examine(tmp_path), "bitsandbytes does not work")
    assert "no kernel image" in found["what"]
    assert "pip install" in found["fix"]


def test_missing_and_outdated_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "peft":
            raise importlib.metadata.PackageNotFoundError(name)
        return "0.1.0" if name == "gradio" else real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    findings = examine(tmp_path)
    assert 'pip install -U "peft' in problem(findings, "peft is not installed")["fix"]
    assert 'pip install -U "gradio' in problem(findings, "gradio 0.1.0")["fix"]
    assert "peft missing" in render(findings)


def test_a_card_that_torch_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("torch sees a card")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/" + name)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "download.pytorch.org" in problem(examine(tmp_path), "without CUDA")["fix"]
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    assert "nvidia-smi" in problem(examine(tmp_path), "finds no card")["fix"]


def test_works_without_torch(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; from lorarlhf.doctor import examine, render; "
        "f = examine(sys.argv[1]); print(render(f)); sys.exit(not any('torch can' in p['what'] for p in f['problems']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_offline_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    assert any("HF_HUB_OFFLINE" in note for note in examine(tmp_path)["notes"])


def test_container_limit_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "_container_free", lambda: 1000)
    assert hardware.free_bytes(torch.device("cpu")) == 1000


def test_what_fits_comes_from_the_planner_and_grows_with_the_base(tmp_path: Path) -> None:
    fits = examine(tmp_path)["fits"]
    assert [row["base"] for row in fits] == [shape.name for shape in SHAPES]
    # A processor unpacks small bases to draw answers, which then takes about as much as training them.
    assert all(row["train_bytes"] > 0.95 * row["rate_bytes"] for row in fits)
    for key in ("rate_bytes", "train_bytes"):
        # Bases of about one size may differ in what is large of them.
        assert all(after[key] > 0.95 * before[key] for before, after in pairwise(fits))
