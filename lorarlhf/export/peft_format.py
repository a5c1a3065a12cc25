"""Write an adapter as a folder that plain `peft` and `transformers` load on the same base.

A policy's weights are copied as they are. A reward model is re-keyed into what PEFT saves for a sequence
classifier: the head's weight becomes `score`. Classifiers of transformers have no bias, and no weight of theirs can
stand in for one: behind an RMS norm no direction of the hidden states is constant. So the head's bias, which says
where 0 lies, is kept beside the weights as `score_offset`: in README and card, and in a merged model's config.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from lorarlhf.errors import AdapterError
from lorarlhf.export.origin import Origin, check_classifier
from lorarlhf.library import WEIGHTS, SavedAdapter

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
"""What PEFT puts before the name of every layer of the model."""


def write_peft(saved: SavedAdapter, origin: Origin, folder: Path) -> float | None:
    """Write weights, configuration and tokenizer to `folder` → the bias that found no place, of reward models.

    Raises `AdapterError` for a torn adapter, or one that has no such form.
    """
    weights = saved.content("adapter")
    config = read_config(saved)
    offset = None
    if saved.has_head:
        weights, offset = _with_score(saved, weights, origin)
        config |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    config |= {"base_model_name_or_path": origin.name, "revision": origin.revision or None}
    files = {**origin.tokenizer, WEIGHTS: weights, CONFIG: as_json(config)}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return offset


def read_config(saved: SavedAdapter) -> dict[str, Any]:
    """Read what PEFT says about an adapter; raise `AdapterError` where that is damaged."""
    path = saved.path / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict) or "target_modules" not in config:
        raise AdapterError(f"adapter {saved.name}: {path} is missing or damaged; restore it from a copy")
    return config


def _with_score(saved: SavedAdapter, weights: bytes, origin: Origin) -> tuple[bytes, float]:
    """Put the head where PEFT keeps a classifier's → the new file, and the bias that finds no place in it."""
    from safetensors.torch import load, save

    tensors, head = load(weights), load(saved.content("head"))
    check_classifier(origin, layers_of(tensors), saved.name)
    tensors[f"{PREFIX}score.weight"] = head["weight"]
    return save(tensors, metadata={"format": "pt"}), float(head["bias"])


def layers_of(tensors: dict[str, Any]) -> set[str]:
    """Name the layers an adapter's tensors belong to, as the model calls them."""
    return {re.sub(r"\.lora_\w+(\.weight)?$", "", key.removeprefix(PREFIX)) for key in tensors}


def as_json(value: dict[str, Any]) -> bytes:
    """Write JSON as people read it."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
