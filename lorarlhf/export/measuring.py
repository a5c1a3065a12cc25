"""Measure an adapter on its base in a process that ends when that is done: `python measuring.py JOB.json`.

The job holds `load` (settings of the base), the `adapter` folder, the `conversations` and a `place` to write to.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.export.probe import measure
from lorarlhf.settings import LoadSettings


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    bank = AdapterBank(load_base(LoadSettings.model_validate(job["load"])))
    bank.load("probed", Path(job["adapter"]), frozen=True)
    conversations = [(tuple(prompt), text) for prompt, text in job["conversations"]]
    setup = measure(bank.base, bank, "probed", conversations, Path(job["place"]))
    (Path(job["place"]) / "setup.json").write_text(json.dumps(asdict(setup)))


if __name__ == "__main__":
    main()
