"""Run a program in a fresh process and wait for it; its memory is free again when it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lorarlhf.errors import ExportError

# The child finds the modules this process found, whatever folder it stands in.
BOOT = """
import runpy, sys
script, job, *sys.path = sys.argv[1:]
from lorarlhf.starting import compiling_later
with compiling_later():
    import peft
sys.argv = [script, job]
runpy.run_path(script, run_name="__main__")
"""
LOOK_SECONDS = 0.1


def run_child(program: str, job: dict[str, Any], what: str, breathe: Callable[[], None]) -> None:
    """Run a program of this folder on a job; raise `ExportError` in one line where it fails.

    `breathe` is called while it runs and may raise to break off; the child is ended then. `hide_gpus` in the job keeps
    it on the processor.
    """
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if job.get("hide_gpus") else {}
    with tempfile.TemporaryDirectory(prefix="lorarlhf-") as folder:
        paper, errors = Path(folder) / "job.json", Path(folder) / "stderr"
        paper.write_text(json.dumps(job))
        script = str(Path(__file__).with_name(f"{program}.py"))
        with errors.open("wb") as said:
            child = subprocess.Popen(
                [sys.executable, "-I", "-c", BOOT, script, str(paper), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                env=os.environ | hidden,
            )
            try:
                while child.poll() is None:
                    breathe()
                    time.sleep(LOOK_SECONDS)
            finally:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        if child.returncode:
            raise ExportError(f"{what} failed: {why(child.returncode, errors.read_text(errors='replace'))}")


def why(code: int, said: str) -> str:
    """Say in one line why a child failed."""
    if code == -signal.SIGKILL:
        return "its process was killed, which most often means that memory ran out; close other programs"
    last = next((line for line in reversed(said.splitlines()) if line.strip()), f"exit status {code}")
    name, _, text = last.partition(": ")
    # `lorarlhf.errors.BaseModelError: …` needs no more than its words.
    line = text if name.startswith("lorarlhf.errors.") else last.strip()
    return line if len(line) <= 300 else line[:299] + "…"
