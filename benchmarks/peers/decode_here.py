"""One side of the comparison: this project's sampling. Run by `benchmarks.decode`."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from benchmarks.peers.decoding import DecodeWork, Draw, tokens_per_second
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.sampling import complete
from lorarlhf.settings import LoadSettings, SamplingSettings


def make_draw(work: DecodeWork, temperature: float = 1.0, compute: str = "auto") -> Draw:
    """Load base and adapter → what draws answers."""
    base = load_base(LoadSettings.parse({"base": work.base, "bits": 4, "device": work.device, "compute": compute}))
    base = replace(base, eos_ids=frozenset())
    bank = AdapterBank(base)
    bank.load("decoding", Path(work.adapter), frozen=True)

    def draw(prompts: list[list[int]]) -> list[list[int]]:
        settings = SamplingSettings(temperature=temperature, max_new_tokens=work.tokens, batch_rows=len(prompts))
        with bank.drawing("decoding"):
            return [answer.tokens for answer in complete(base, prompts, settings)]

    return draw


if __name__ == "__main__":
    work = DecodeWork.read(sys.argv[1])
    print(json.dumps(tokens_per_second(work, 1000, make_draw(work))))
