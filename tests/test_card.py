"""Every stage on a card, played on the processor: in a process of its own, which knows the card before it learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_every_stage_and_judge_runs_on_a_card():
    place = Path(__file__).with_name("on_card.py")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=place.parents[1])
    assert done.returncode == 0, done.stdout[-3000:]
