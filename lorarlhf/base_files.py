"""Find the files of a base model and refuse, in one line, what cannot be loaded. Knows nothing of torch.

Everything that can be told from names, JSON and safetensors headers is told here, before gigabytes are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lorarlhf.base_look import PICKLES, BaseFiles, not_causal, pickle_only, read_config, shards_of, whole
from lorarlhf.errors import BaseModelError
from lorarlhf.settings import LoadSettings

SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")


def find_files(settings: LoadSettings) -> BaseFiles:
    """Locate (or download) the base; raise `BaseModelError` for everything that can't be a causal base."""
    name, folder, revision = _folder(settings)
    config = read_config(name, folder)
    _refuse_other_kinds(name, config, settings)
    _refuse_other_quantisation(name, config, settings.bits)
    return whole(name, folder, revision, config)


def fingerprint(files: BaseFiles) -> str:
    """Hash names, shapes and a sample of each tensor's bytes: 16 hex digits, the same however it is sharded."""
    digest = hashlib.sha256()
    for name, tensor in sorted(files.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        with tensor.file.open("rb") as handle:
            for start in (tensor.begin, (tensor.begin + tensor.end) // 2):
                handle.seek(start)
                digest.update(handle.read(min(256, tensor.end - start)))
    return digest.hexdigest()[:16]


def _folder(settings: LoadSettings) -> tuple[str, Path, str]:
    name = settings.base
    if name == "starter":
        from lorarlhf.starter import MODEL_DIR

        return name, Path(MODEL_DIR), ""
    path = Path(name).expanduser()
    if path.is_dir():
        return path.name, path.resolve(), ""
    if path.is_file():
        raise BaseModelError(f"{name} is a file; pass the folder that holds config.json and the weights")
    if name.count("/") > 1 or name.startswith((".", "/", "~")) or not name.strip() or "\\" in name:
        raise BaseModelError(f"base folder {name} does not exist; check the path, or pass a Hub id such as org/name")
    folder = _download(settings)
    return name, folder, folder.name


def _download(settings: LoadSettings) -> Path:
    """Fetch configuration and safetensors of a Hub base, from the cache where it has them."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    small = [*SMALL_FILES, "*.py"] if settings.trust_remote_code else list(SMALL_FILES)

    def fetch(patterns: Iterable[str]) -> Path:
        revision = settings.revision or None
        return Path(snapshot_download(settings.base, revision=revision, allow_patterns=list(patterns)))

    try:
        folder = fetch(small)
        index = folder / "model.safetensors.index.json"
        shards = shards_of(settings.base, index) if index.is_file() else ["model.safetensors"]
        if not all((folder / shard).is_file() for shard in shards):
            fetch([*small, *shards])
        if not (folder / shards[0]).is_file() and _hub_has_pickle(settings):
            raise pickle_only(settings.base)
        return folder
    except (OSError, ValueError, RuntimeError) as error:  # huggingface_hub's own errors are all of these
        if isinstance(error, BaseModelError):
            raise
        raise BaseModelError(_download_problem(settings, error)) from None


def _hub_has_pickle(settings: LoadSettings) -> bool:
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return False
    files = HfApi().list_repo_files(settings.base, revision=settings.revision or None)
    return any(Path(file).match(pattern) for file in files for pattern in PICKLES)


def _download_problem(settings: LoadSettings, error: Exception) -> str:
    """Word a failed download by the class of huggingface_hub's error."""
    name, kind = settings.base, {c.__name__ for c in type(error).__mro__}
    if "GatedRepoError" in kind:
        return f"{name} is gated: accept its licence on https://huggingface.co/{name}, then run `hf auth login`"
    if "RevisionNotFoundError" in kind:
        return f"{name} has no revision {settings.revision}; leave the revision empty to take its main branch"
    if "RepositoryNotFoundError" in kind:
        return f"{name} is neither a folder nor a model on the Hub; check the spelling, or `hf auth login` if private"
    if "HFValidationError" in kind:
        return f"{name} is neither a folder nor a Hub id of the form org/name; check the path"
    if isinstance(error, OSError) and error.errno == 28:
        return f"disk full while downloading {name}; free space or set HF_HOME to another disk"
    return (
        f"{name} is not a local folder and can't be fetched: the Hub is out of reach or HF_HUB_OFFLINE is set; "
        "connect once, choose a local folder, or take the starter"
    )


def _refuse_other_kinds(name: str, config: dict[str, Any], settings: LoadSettings) -> None:
    """Raise where the configuration names something that is not a causal language model we can load."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind, remote = config.get("model_type"), "auto_map" in config
    known = kind in CONFIG_MAPPING_NAMES
    if remote and not known and not settings.trust_remote_code:
        raise BaseModelError(
            f"{name} ({kind}) runs its own Python code; read it, then allow it with --trust-remote-code true"
        )
    if remote and settings.trust_remote_code:
        return
    if not kind:
        raise BaseModelError(f"{name}: config.json names no model_type; pass the folder of a transformers model")
    if not known:
        raise BaseModelError(
            f"{name}: transformers does not know the architecture {kind}; try `pip install -U transformers`"
        )
    if config.get("is_encoder_decoder") or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise BaseModelError(f"{name} ({kind}) is not a causal language model; pass a decoder such as Llama or Qwen")
    causal = {c for v in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for c in ([v] if isinstance(v, str) else v)}
    named = config.get("architectures") or []
    if named and not causal.intersection(named):
        raise not_causal(name, named[0])


def _refuse_other_quantisation(name: str, config: dict[str, Any], bits: int) -> None:
    """Raise for weights that are quantised already, unless bitsandbytes did it with as many bits as are wanted."""
    quantised = config.get("quantization_config")
    if not quantised:
        return
    method = quantised.get("quant_method", "an unknown method")
    stored = 4 if quantised.get("load_in_4bit") else 8 if quantised.get("load_in_8bit") else None
    if method != "bitsandbytes" or stored is None:
        raise BaseModelError(
            f"{name} is already quantised ({method}); pass the original, which is quantised on loading"
        )
    if stored != bits:
        raise BaseModelError(
            f"{name} is already quantised to {stored} bits; load it in {stored} bits, or pass the original"
        )
