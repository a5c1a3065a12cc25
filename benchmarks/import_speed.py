"""Measure how long 10,000 comparisons take to import; print one JSON value.

python benchmarks/import_speed.py [ROWS]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

from lorarlhf.data.importing import import_file
from lorarlhf.store import Store


def main(rows: int) -> dict[str, object]:
    """Import `rows` comparisons of about 1.2 kB each as JSONL into an empty store, and again as duplicates."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "votes.jsonl")
        with file.open("w", encoding="utf-8") as lines:
            for n in range(rows):
                prompt = [{"role": "user", "content": f"Question {n}: " + "why is that so? " * 15}]
                row = {"prompt": prompt, "chosen": f"Answer {n} " * 40, "rejected": f"No {n} " * 60}
                lines.write(json.dumps(row) + "\n")
        with Store(Path(folder, "workspace.db")) as store:
            start, cpu_start = time.perf_counter(), time.process_time()
            first = import_file(store, file, "comparisons")
            first_seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
            start = time.perf_counter()
            again = import_file(store, file, "comparisons")
            again_seconds = time.perf_counter() - start
        return {
            "rows": rows,
            "file_mb": round(file.stat().st_size / 1e6, 1),
            "cores": os.cpu_count(),
            "added": first["added"],
            "seconds": round(first_seconds, 3),
            "cpu_seconds": round(cpu_seconds, 3),  # tells a busy machine from a slow program
            "duplicates_again": again["duplicates"],
            "seconds_again": round(again_seconds, 3),
        }


if __name__ == "__main__":
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)))
