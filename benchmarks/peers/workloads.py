"""The work both sides do, and how a process that does it measures itself."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

RANK, BATCH, EPOCHS = 16, 16, 4
"""LoRA rank on all linear layers, answers per PPO step, passes over them with one optimizer step each."""
LEARNING_RATE = 1e-5
"""So low that the answers stay as long as they are."""


@dataclass(frozen=True)
class Work:
    """One PPO workload."""

    name: str
    base: str
    """Folder of the base model."""
    prompts: list[list[int]]
    answer: int
    """Longest answer, in tokens."""
    ends: bool
    """Whether answers end at the end mark; else all are `answer` tokens long."""

    def save(self, path: Path) -> Path:
        """Write it for the processes that do it."""
        path.write_text(json.dumps(asdict(self)))
        return path

    @classmethod
    def read(cls, path: str) -> Work:
        """Read what `save` wrote."""
        return cls(**json.loads(Path(path).read_text()))


def fixed_length(folder: Path, **shape: int) -> Work:
    """Take a random base whose end mark is never drawn; prompts of 32 tokens, answers of 64."""
    import torch

    vocabulary = len(_tokenizer(make_base(folder, **shape)))
    drawn = torch.randint(8, vocabulary, (64, 32), generator=torch.Generator().manual_seed(1))
    return Work("fixed length", str(folder), drawn.tolist(), answer=64, ends=False)


def make_base(folder: Path, layers: int = 8, hidden: int = 512, inner: int = 1408, vocabulary: int = 8192) -> Path:
    """Save a Llama of random weights, 30M unless said otherwise, with the starter's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lorarlhf import starter

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    tokenizer = _tokenizer(starter.MODEL_DIR)
    model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def starter_answers() -> Work:
    """Take the starter base, its prompts, and answers of up to 96 tokens that end where the base ends them."""
    from lorarlhf import starter
    from lorarlhf.data.chat import encode_prompt
    from lorarlhf.data.importing import read_prompts

    tokenizer = _tokenizer(starter.MODEL_DIR)
    prompts = read_prompts(starter.shipped_file("prompts"))[:128]
    encoded = [encode_prompt(tokenizer, prompt, 512) for prompt in prompts]
    return Work("starter", str(starter.MODEL_DIR), encoded, answer=96, ends=True)


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


class Meter:
    """Seconds by phase, seconds of every step, and the most memory above what the libraries took."""

    def __init__(self) -> None:
        self._rest = psutil.Process().memory_info().rss
        # Linux keeps the peak, and begins anew when told so; a thread that looks costs both sides time.
        Path("/proc/self/clear_refs").write_text("5")
        self.phases: defaultdict[str, float] = defaultdict(float)
        self.steps: list[float] = []
        self._step_began = 0.0

    @property
    def _peak(self) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add a block's time to a phase."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.phases[name] += time.perf_counter() - began

    def start(self) -> None:
        """Begin the first step."""
        self._step_began = time.perf_counter()

    def elapsed(self) -> float:
        """Return the seconds since the step began."""
        return time.perf_counter() - self._step_began

    def step(self) -> None:
        """End a step; the first one, which warms up, is not counted in phases."""
        now = time.perf_counter()
        self.steps.append(now - self._step_began)
        if len(self.steps) == 1:
            self.phases.clear()
        self._step_began = now

    def report(self, **more: Any) -> dict[str, Any]:
        """Say what was measured; bytes and seconds. The first step is left out."""
        counted = self.steps[1:]
        return {
            "seconds_per_step": sum(counted) / len(counted),
            "phases": {name: seconds / len(counted) for name, seconds in self.phases.items()},
            "peak_bytes": self._peak - self._rest,
            "libraries_bytes": self._rest,
            **more,
        }
