"""Measure how long `lorarlhf --help` takes and whether it imports torch; print one JSON value.

python -m benchmarks.startup
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time

RUNS = 7
HELP = [sys.executable, "-m", "lorarlhf", "--help"]


def main() -> dict[str, object]:
    """Start the program several times, each in its own process, and once more to list what it imports."""
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(HELP, check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    traced = [sys.executable, "-X", "importtime", *HELP[1:]]
    listed = subprocess.run(traced, check=True, capture_output=True, text=True).stderr
    modules = {line.rpartition("|")[2].strip() for line in listed.splitlines()}
    return {
        "seconds": round(statistics.median(seconds), 3),
        "slowest": round(max(seconds), 3),
        "runs": RUNS,
        "torch_imported": "torch" in modules,
        "modules": len(modules),
        "cores": os.cpu_count(),
    }


if __name__ == "__main__":
    print(json.dumps(main()))
