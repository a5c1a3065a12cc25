"""Write an adapter as a folder that plain `peft` and `transformers` load on the same base.

A policy's weights are copied as they are. A reward model is re-keyed into what PEFT saves for a sequence
classifier: the head's weight becomes `score`. Classifiers of transformers have no bias, so the head's bias, which
says where 0 lies, goes into README and card as `score_offset`.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from lorarlhf.errors import AdapterError, StoreError
from lorarlhf.export.origin import Origin, check_classifier, kept_16bit, origin_of
from lorarlhf.export.readme import Export, write_readme
from lorarlhf.files import whole_folder
from lorarlhf.library import CARD, WEIGHTS, SavedAdapter

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
"""What PEFT puts before the name of every layer of the model."""


def export_peft(
    saved: SavedAdapter, dest: Path, *, overwrite: bool = False, base_folder: Path | None = None
) -> dict[str, Any]:
    """Write `saved` to the folder `dest`, whole or not at all → what was written, for `--json`.

    `base_folder` is where a base that is neither the starter nor on the Hub lies; without it the export brings no
    tokenizer. Raises `AdapterError` for a torn adapter or one that has no such form, `StoreError` for a bad `dest`.
    """
    dest = dest.expanduser().absolute()
    _check_dest(saved, dest, overwrite)
    weights = saved.content("adapter")
    config = _config(saved)
    origin = origin_of(saved, base_folder)
    offset = None
    if saved.has_head:
        weights, offset = _with_score(saved, weights, origin)
        config |= {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    config |= {"base_model_name_or_path": origin.name, "revision": origin.revision or None}
    export = Export(saved.card, saved.name, dest.name, origin, tuple(kept_16bit(origin)), offset)
    files = {
        **origin.tokenizer,
        WEIGHTS: weights,
        CONFIG: _json(config),
        CARD: _json(_card(saved, export, weights)),
        "README.md": write_readme(export).encode(),
    }
    with whole_folder(dest, overwrite=overwrite) as aside:
        for name, content in files.items():
            (aside / name).write_bytes(content)
    result = {"folder": str(dest), "format": "peft", "adapter": saved.name, "files": sorted(files)}
    return result if offset is None else {**result, "score_offset": offset}


def _check_dest(saved: SavedAdapter, dest: Path, overwrite: bool) -> None:
    """Refuse to replace anything but an earlier export: whatever else is in a folder is not ours to remove."""
    if not dest.exists():
        return
    if not dest.is_dir():
        raise StoreError(f"{dest} is a file; name a folder")
    if not overwrite:
        raise StoreError(f"{dest} exists already; choose another folder, or overwrite an earlier export with --force")
    if dest.resolve() == saved.path.resolve():
        raise StoreError(f"{dest} is the adapter itself; choose another folder")
    if any(dest.iterdir()) and not ((dest / CARD).is_file() and (dest / CONFIG).is_file()):
        raise StoreError(f"{dest} is not an earlier export, so it is not overwritten; choose another folder")


def _config(saved: SavedAdapter) -> dict[str, Any]:
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
    layers = {re.sub(r"\.lora_\w+(\.weight)?$", "", key.removeprefix(PREFIX)) for key in tensors}
    check_classifier(origin, layers, saved.name)
    tensors[f"{PREFIX}score.weight"] = head["weight"]
    return save(tensors, metadata={"format": "pt"}), float(head["bias"])


def _card(saved: SavedAdapter, export: Export, weights: bytes) -> dict[str, Any]:
    """Add to the adapter's card what the export changed."""
    made = {"format": "peft", "hash": hashlib.sha256(weights).hexdigest()}
    return {**saved.card, "export": made if export.offset is None else {**made, "score_offset": export.offset}}


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
