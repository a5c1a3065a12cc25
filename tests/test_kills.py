"""Real processes, really killed: the benchmark of kills in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="the benchmark forks, and adopts what is left behind")
def test_a_few_kills_lose_nothing() -> None:
    command = [sys.executable, "-m", "benchmarks.faults", "--kills", "3", "--seed", "3", "--only-kills"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] >= 3
    assert found["votes_cast"] > 0
    lost = ("votes_lost", "adapters_torn", "runs_not_resumable", "numbers_different")
    assert [found[name] for name in lost] == [0, 0, 0, 0]
