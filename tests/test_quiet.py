"""What a person's terminal shows: our own words, never a library's warnings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

SCRIPT = """
import json, sys
from lorarlhf.cli import main
for words in json.loads(sys.argv[1]):
    try:
        sys.argv = ["lorarlhf", *words]
        main()
    except SystemExit as end:
        if end.code:
            raise
"""

SHOWN = [{"prompt": f"Is shop {i} open?", "completion": f"Yes, shop {i} is open until six."} for i in range(8)]


def test_no_library_speaks_on_the_terminal_from_import_to_export(tmp_path):
    rows = [{"prompt": f"Where is parcel {i}?", "chosen": f"It is at stop {i}.", "rejected": "No."} for i in range(24)]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "shown.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SHOWN))
    small = ["--rank", "2", "--batch-size", "4"]
    commands = [
        ["import", "shown.jsonl", "--as", "demonstrations"],
        ["import", "votes.jsonl", "--as", "comparisons"],
        ["train", "sft", *small, "--epochs", "1"],
        ["train", "reward", *small, "--epochs", "1"],
        ["train", "ppo", *small, "--batch-size", "8", "--steps", "2", "--max-new-tokens", "4", "--eval-prompts", "2"],
        ["generate", "--prompt", "Hello?", "--adapter", "ppo-1", "--max-new-tokens", "4"],
        ["judge", "reward", "reward-1"],
        ["export", "reward-1", "reward", "--format", "peft"],
        ["export", "ppo-1", "merged", "--format", "merged"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "LORARLHF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = (done.stdout + done.stderr).splitlines()
    assert not [line for line in said if re.search(r"\bwarning|[a-z]Warning|[Dd]eprecat", line)]
    assert (tmp_path / "merged" / "model.safetensors").exists()
