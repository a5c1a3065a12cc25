"""Take in LoRA adapters that other programs made, only such as can be held here exactly.

Everything is told from the adapter's files and the base's config: shapes, names, options. Loads no weights of the base.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lorarlhf.base_files import find_files, fingerprint
from lorarlhf.base_look import BaseFiles
from lorarlhf.errors import AdapterError
from lorarlhf.files import whole_folder
from lorarlhf.library import CARD, HEAD, WEIGHTS, check_new_name, free_name
from lorarlhf.settings import LoadSettings

CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
ROLES = {"sft": "sft", "policy": "ppo", "reward": "reward"}
"""What an adapter may be taken in as → the stage that makes such adapters."""

CARRIED = {
    *("task_type", "peft_type", "peft_version", "auto_mapping", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform"),
    *("layers_pattern", "lora_dropout", "fan_in_fan_out", "use_rslora", "modules_to_save", "init_lora_weights"),
    *("megatron_core", "qalora_group_size", "runtime_config", "loftq_config", "ensure_weight_tying"),
}
"""Options of PEFT that change nothing here, or are looked at one by one; any other must be at its default."""
SCORE_NAMES = {"score", "classifier"}
"""What PEFT lists for every sequence classifier, whichever it has; the tensors tell."""
PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Initial weights that leave the base as it is."""


@dataclass(frozen=True)
class Foreign:
    """The files of an adapter made elsewhere."""

    name: str
    config: dict[str, Any]
    tensors: dict[str, Any]
    offset: float = 0.0
    """The bias of a head, where the adapter was exported from here."""


def take_in(
    adapters_dir: Path,
    source: str,
    role: str,
    load: LoadSettings,
    name: str = "",
    *,
    taken: Collection[str] = (),
    promised: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Copy an adapter from a folder or the Hub into the workspace → its name, and what is to be said about it.

    `load` names the base it must fit; `taken` are names not to be made up, `promised` those that `check_new_name`
    refuses. Raises `AdapterError` in one line for whatever cannot be held exactly, and then
    changes nothing.
    """
    if role not in ROLES:
        raise AdapterError(f"an adapter is taken in as {', '.join(ROLES)}, not as {role!r}")
    stage = ROLES[role]
    name = name or free_name(adapters_dir, stage, taken)
    check_new_name(adapters_dir, name, promised or {})
    foreign, base = _read(_folder(source), source), find_files(load)
    _refuse(foreign, role)
    lora, head = _split(foreign, role)
    architecture, layers = _layers(base)
    pairs = _pairs(foreign.name, lora)
    _check_shapes(foreign, pairs, layers, base)
    _check_head(foreign, head, layers, base)
    config = _config(foreign, pairs, layers)
    files = _files(lora, head, foreign.offset)
    hashes = {part: hashlib.sha256(files[file]).hexdigest() for part, file in _PARTS.items() if file in files}
    named = str(foreign.config.get("base_model_name_or_path") or "")
    card = {
        "name": name,
        "stage": stage,
        "created": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "settings": {"rank": config["r"], "alpha": config["lora_alpha"]},
        "imported": {"from": foreign.name, "base": _short(named)},
        "base": {
            "name": base.name,
            "revision": base.revision,
            "bits": load.bits,
            "architecture": architecture,
            "fingerprint": fingerprint(base),
        },
        "hashes": hashes,
    }
    with whole_folder(adapters_dir / name) as aside:
        for file, content in {**files, CONFIG: _json({**config, "base_model_name_or_path": base.name})}.items():
            (aside / file).write_bytes(content)
        (aside / CARD).write_bytes(_json(card))
    return {"name": name, "stage": stage, "layers": len(pairs), "remarks": _remarks(foreign, base, role)}


_PARTS = {"adapter": WEIGHTS, "head": HEAD}


# -- reading --------------------------------------------------------------------------------------------------


def _folder(source: str) -> Path:
    """Find the adapter's folder, or fetch it from the Hub."""
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise AdapterError(f"{source} is a file; pass the folder that holds {CONFIG}")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or source.startswith((".", "/", "~")):
        raise AdapterError(f"adapter folder {source} does not exist; check the path, or pass a Hub id such as org/name")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, allow_patterns=[CONFIG, WEIGHTS, CARD, "adapter_model.bin.index.json"]))
    except (OSError, ValueError, RuntimeError):  # huggingface_hub's own errors are all of these
        raise AdapterError(
            f"{source} is no folder, and cannot be fetched from the Hub: check the spelling and the connection, "
            "or `hf auth login` if it is private"
        ) from None


def _read(folder: Path, source: str) -> Foreign:
    from safetensors import SafetensorError
    from safetensors.torch import load

    name = folder.resolve().name if Path(source).expanduser().is_dir() else source
    config = _read_json(folder / CONFIG)
    if config is None:
        raise AdapterError(f"{source} has no readable {CONFIG}; pass the folder of an adapter that peft saved")
    if not (folder / WEIGHTS).is_file():
        pickled = (folder / "adapter_model.bin").is_file()
        why = (
            "only pickled weights, which can run code when opened; save it as safetensors" if pickled else "no weights"
        )
        raise AdapterError(f"{source} has {why}" + ("" if pickled else f"; it lacks {WEIGHTS}"))
    try:
        tensors = load((folder / WEIGHTS).read_bytes())
    except (OSError, SafetensorError):
        raise AdapterError(f"{source}: {WEIGHTS} is damaged; get it again") from None
    export = (_read_json(folder / CARD) or {}).get("export", {})
    offset = export.get("score_offset", 0.0) if isinstance(export, dict) else 0.0
    return Foreign(name, config, tensors, float(offset) if isinstance(offset, (int, float)) else 0.0)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


# -- what cannot be held exactly ------------------------------------------------------------------------------


def _refuse(foreign: Foreign, role: str) -> None:
    """Raise for options that would make the adapter another one here."""
    config, name = foreign.config, foreign.name
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{name} is a {config.get('peft_type')} adapter; only LoRA is held here")
    if config.get("use_dora"):
        raise AdapterError(f"{name} uses DoRA, which cannot be held here exactly; merge it into its base elsewhere")
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        raise AdapterError(f"{name} trains biases, which cannot be held here; train it with bias='none'")
    saved = set(config.get("modules_to_save") or ())
    if saved - SCORE_NAMES or (saved and role != "reward"):
        hint = "import it --as reward" if saved <= SCORE_NAMES else "only a reward model's score head can be"
        raise AdapterError(f"{name} brings whole layers ({', '.join(sorted(saved))}), which cannot be held; {hint}")
    if config.get("init_lora_weights", True) not in PLAIN_STARTS or config.get("loftq_config"):
        how = config.get("init_lora_weights")
        raise AdapterError(f"{name} began as {how}, which alters its base; convert it to a plain LoRA with peft first")
    for option in ("r", "lora_alpha"):
        value = config.get(option)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise AdapterError(f"{name}: its {CONFIG} gives no {option}; get it again")
    from peft import LoraConfig

    plain = LoraConfig().to_dict()
    odd = [key for key, value in config.items() if key not in CARRIED and value and value != plain.get(key)]
    if odd:
        raise AdapterError(f"{name} uses {odd[0]}, which cannot be held here exactly; train it without")


def _split(foreign: Foreign, role: str) -> tuple[dict[str, Any], Any]:
    """Part the LoRA matrices from a score head; raise where either has what the role does not."""
    lora = {key: value for key, value in foreign.tensors.items() if re.search(r"\.lora_[AB]\.weight$", key)}
    rest = {key: value for key, value in foreign.tensors.items() if key not in lora}
    head = rest.pop(f"{PREFIX}score.weight", None)
    if rest:
        raise AdapterError(f"{foreign.name} holds {min(rest)}, which is no LoRA matrix and cannot be held here")
    if role == "reward" and head is None:
        raise AdapterError(f"{foreign.name} has no score head, so it is no reward model; import it --as sft or policy")
    if role != "reward" and head is not None:
        raise AdapterError(f"{foreign.name} has a score head; import it --as reward")
    return lora, head


def _pairs(name: str, lora: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Put the two matrices of each layer together, by the layer's name in the model."""
    pairs = {}
    for layer in sorted({re.sub(r"\.lora_[AB]\.weight$", "", key) for key in lora}):
        a, b = (lora.get(f"{layer}.lora_{part}.weight") for part in "AB")
        if a is None or b is None or not layer.startswith(PREFIX):
            raise AdapterError(f"{name}: {layer} is half an adapter, or not peft's; get it again")
        pairs[layer.removeprefix(PREFIX)] = (a, b)
    if not pairs:
        raise AdapterError(f"{name} holds no LoRA matrices; get it again")
    return pairs


# -- the base -------------------------------------------------------------------------------------------------


def _layers(base: BaseFiles) -> tuple[str, dict[str, tuple[int, int]]]:
    """Name the base's class and its linear layers, each with outputs and inputs."""
    import torch
    from torch import nn
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    if "auto_map" in base.config:
        raise AdapterError(f"{base.name} runs its own code, so adapters made elsewhere cannot be checked against it")
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base.folder))
    found = {}
    for name, module in skeleton.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = (module.out_features, module.in_features)
        elif isinstance(module, Conv1D):
            found[name] = (module.nf, module.nx)
    return type(skeleton).__name__, found


def _check_shapes(
    foreign: Foreign, pairs: dict[str, tuple[Any, Any]], layers: dict[str, tuple[int, int]], base: BaseFiles
) -> None:
    """Raise unless every pair of matrices sits on a layer of the base, at the rank the config says."""
    named = _short(str(foreign.config.get("base_model_name_or_path") or "")) or "another base"
    for layer, (a, b) in pairs.items():
        if layer not in layers:
            raise AdapterError(
                f"{foreign.name} was made for {named}: {base.name} has no layer {layer}; load its own base"
            )
        if (b.shape[0], a.shape[1]) != layers[layer]:
            wide, here = f"{b.shape[0]}×{a.shape[1]}", "×".join(map(str, layers[layer]))
            raise AdapterError(
                f"{foreign.name} was made for {named}: its {layer} is {wide}, that of {base.name} {here}; "
                "load its own base"
            )
        if (a.shape[0], b.shape[1]) != (foreign.config["r"],) * 2:
            raise AdapterError(
                f"{foreign.name}: {layer} has rank {a.shape[0]}, not {foreign.config['r']}; get it again"
            )
        if not (a.isfinite().all() and b.isfinite().all()):
            raise AdapterError(
                f"{foreign.name}: {layer} holds NaN or infinite numbers; its training broke, so train it again"
            )


def _check_head(foreign: Foreign, head: Any, layers: dict[str, tuple[int, int]], base: BaseFiles) -> None:
    from transformers import AutoConfig

    if head is None:
        return
    hidden = int(AutoConfig.from_pretrained(base.folder).get_text_config().hidden_size)
    if tuple(head.shape) != (1, hidden):
        raise AdapterError(
            f"{foreign.name}: its score head is {'×'.join(map(str, head.shape))}; a reward model of {base.name} has "
            f"one of 1×{hidden}"
        )


# -- writing --------------------------------------------------------------------------------------------------


def _config(foreign: Foreign, pairs: dict[str, Any], layers: dict[str, Any]) -> dict[str, Any]:
    """Write the adapter's own config anew: plain LoRA on exactly the layers it has matrices for."""
    from peft import LoraConfig

    rank, alpha = int(foreign.config["r"]), foreign.config["lora_alpha"]
    if foreign.config.get("use_rslora"):
        alpha = alpha * rank**0.5  # scaled by alpha / √r there, by alpha / r here
    suffixes = {layer.rpartition(".")[2] for layer in pairs}
    whole = {layer for layer in layers if layer.rpartition(".")[2] in suffixes} == set(pairs)
    config = LoraConfig(r=rank, lora_alpha=alpha, task_type="CAUSAL_LM", inference_mode=True).to_dict()
    return {**config, "target_modules": sorted(suffixes if whole else pairs)}


def _files(lora: dict[str, Any], head: Any, offset: float) -> dict[str, bytes]:
    """Write the matrices, and the head with the bias that transformers' heads have not, in fp32."""
    import torch
    from safetensors.torch import save

    files = {WEIGHTS: save({key: value.float().contiguous() for key, value in lora.items()}, {"format": "pt"})}
    if head is not None:
        both = {"weight": head.float().contiguous(), "bias": torch.tensor([offset])}
        files[HEAD] = save(both, {"format": "pt"})
    return files


def _remarks(foreign: Foreign, base: BaseFiles, role: str) -> list[str]:
    """Say what a person should know: another base of the same shapes, scores without a zero."""
    named, found = str(foreign.config.get("base_model_name_or_path") or ""), []
    if not named:
        found.append(f"it does not say which base it was made on; the shapes fit {base.name}")
    elif _short(named).lower() != base.name.rpartition("/")[2].lower():
        found.append(
            f"it was made on {_short(named)}, and here is {base.name}: the shapes fit, but if the weights differ "
            "it will answer otherwise than it was trained to"
        )
    if role == "reward" and not foreign.offset:
        found.append("its head has no bias, so scores are not centred at 0")
    return found


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _json(value: dict[str, Any]) -> bytes:
    def plain(odd: Any) -> Any:
        return sorted(odd) if isinstance(odd, set) else str(odd)

    return (json.dumps(value, indent=2, ensure_ascii=False, default=plain) + "\n").encode()
