"""What the files of a base tell by themselves: configuration, tokenizer, headers of the weights. No transformers here.

The app looks at a folder with it before it ends anything for that; loading looks again, and closer.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lorarlhf.errors import BaseModelError

TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken.json")
PICKLES = ("pytorch_model*.bin", "*.pth", "*.pt", "*.ckpt")
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How the classes of causal language models end."""
HEADER_LIMIT = 100_000_000
"""Bytes; the safetensors format allows no longer header."""


@dataclass(frozen=True)
class Stored:
    """One tensor in a safetensors file."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    """Byte offset of the data in the file."""
    end: int


@dataclass(frozen=True)
class BaseFiles:
    """A base whose files are all here and look whole."""

    name: str
    folder: Path
    revision: str
    """Commit of the Hub; empty for a local folder."""
    config: dict[str, Any]
    tensors: dict[str, Stored]


def look_over(name: str, folder: Path) -> BaseFiles:
    """Look at a folder before anything is loaded or ended for it, without transformers.

    Raises `BaseModelError` where files are missing or damaged, or the architecture is by its name no causal model.
    """
    config = read_config(name, folder)
    kinds = [str(kind) for kind in config.get("architectures") or []]
    if kinds and not any(kind.endswith(CAUSAL) for kind in kinds):
        raise not_causal(name, kinds[0])
    return whole(name, folder, "", config)


def whole(name: str, folder: Path, revision: str, config: dict[str, Any]) -> BaseFiles:
    """Check tokenizer and weights; raise `BaseModelError` where they are missing or damaged."""
    if not any(next(folder.glob(pattern), None) for pattern in TOKENIZERS):
        raise BaseModelError(f"{name} has no tokenizer in {folder}; copy its tokenizer.json and tokenizer_config.json")
    return BaseFiles(name, folder, revision, config, _tensors(name, folder))


def not_causal(name: str, kind: str) -> BaseModelError:
    """Word the refusal of another kind of model."""
    return BaseModelError(
        f"{name} holds a {kind}, not a causal language model; pass one whose class ends in ForCausalLM"
    )


def read_config(name: str, folder: Path) -> dict[str, Any]:
    """Read the configuration in a folder; raise `BaseModelError` that says what the folder holds instead."""
    path = folder / "config.json"
    if not path.is_file():
        adapter = folder / "adapter_config.json"
        if adapter.is_file():
            base = _json(name, adapter).get("base_model_name_or_path") or "the model it was trained on"
            raise BaseModelError(f"{name} is a LoRA adapter, not a base; choose its base instead: {base}")
        if any(folder.glob("*.gguf")):
            raise BaseModelError(f"{name} holds GGUF files, which cannot be trained on; pass the original model")
        raise BaseModelError(f"{name} has no config.json in {folder}; pass the folder of a saved transformers model")
    return _json(name, path)


def _json(name: str, path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise BaseModelError(f"{name}: {path.name} can't be read ({reason}); get the file again") from None
    if not isinstance(value, dict):
        raise BaseModelError(f"{name}: {path.name} does not hold a JSON object; get the file again")
    return value


def shards_of(name: str, index: Path) -> list[str]:
    """List the files that an index of weights names."""
    files = _json(name, index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise BaseModelError(f"{name}: {index.name} lists no weights; get the file again")
    shards = sorted(set(files.values()))
    if any(Path(shard).name != shard or not shard.endswith(".safetensors") for shard in shards):
        raise BaseModelError(f"{name}: {index.name} names files outside its folder or not safetensors; get it again")
    return shards


def _tensors(name: str, folder: Path) -> dict[str, Stored]:
    """Read all headers; raise for missing, truncated or pickled weights."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        files = [folder / shard for shard in shards_of(name, index)]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise BaseModelError(
                f"{name} lacks {len(missing)} of {len(files)} weight files ({missing[0]}); get them again"
            )
    elif single.is_file():
        files = [single]
    elif any(next(folder.glob(pattern), None) for pattern in PICKLES):
        raise pickle_only(name)
    else:
        raise BaseModelError(f"{name} has a config.json but no model.safetensors in {folder}; get the weights too")
    found: dict[str, Stored] = {}
    for file in files:
        found.update(_header(name, file))
    return found


def _header(name: str, file: Path) -> dict[str, Stored]:
    size = os.path.getsize(file)
    try:
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if not 2 <= length <= min(HEADER_LIMIT, size - 8):
                raise ValueError("its header is cut off")
            header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        data = 8 + length
        tensors = {
            key: Stored(v["dtype"], tuple(v["shape"]), file, *(data + offset for offset in v["data_offsets"]))
            for key, v in header.items()
        }
        if size != max((t.end for t in tensors.values()), default=data):
            raise ValueError("its length does not match its header")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = "its header is damaged" if not isinstance(error, ValueError) or "char" in str(error) else error
        raise BaseModelError(f"{name}: {file.name} is damaged or incomplete ({reason}); get the file again") from None
    return tensors


def pickle_only(name: str) -> BaseModelError:
    """Word the refusal of pickled weights, and what to do."""
    return BaseModelError(
        f"{name} has only pickled weights, which can run code when opened; if you trust it, convert it once: "
        "AutoModelForCausalLM.from_pretrained(SOURCE).save_pretrained(FOLDER) (tokenizer too), and pass FOLDER"
    )
