"""What an export has to say about the base an adapter was made on. Reads the base's files, never its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lorarlhf.base_files import find_files, fingerprint
from lorarlhf.data.chat import end_of_turn_id, is_dated, wants_parts
from lorarlhf.errors import AdapterError, BaseModelError, ExportError
from lorarlhf.library import SavedAdapter
from lorarlhf.settings import LoadSettings

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tekken.json",
    "chat_template.*",
    "*.model",
    "*.tiktoken",
)
HEAD_ONLY = ("lm_head",)
"""The output layer of nearly every causal model; what is left unquantised when nobody can look."""

OWN_SCORE = {"biogpt", "bloom", "falcon", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "mpt"}
OWN_SCORE |= {"openai-gpt", "opt", "zamba", "zamba2"}
"""Model types with a hand-written sequence classifier of transformers 5 whose head is `score`, without a bias."""

PLAIN_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}{{- message['content'] + '\\n\\n' -}}
{%- elif message['role'] == 'user' -%}{{- 'User: ' + message['content'] + '\\n' -}}
{%- else -%}{{- 'Assistant: ' + message['content'] | trim + (eos_token or '') + '\\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}
"""
"""The plain format of `lorarlhf.data.chat` as a chat template, for bases that bring none."""


@dataclass(frozen=True)
class Origin:
    """A base as the reader of an export must load it."""

    name: str
    revision: str
    bits: int
    architecture: str
    folder: Path | None
    """Where its files are on this machine; None where they are not."""
    config: dict[str, Any]
    """Its config.json; empty without a folder."""
    tokenizer: dict[str, bytes]
    """Tokenizer files and chat template by name; empty without a folder."""
    end: tuple[int, str] | None
    """The token that ends an answer."""
    licence: str = ""
    """What the base's own card calls its licence; empty where none is at hand."""
    parts: bool = False
    """Whether its chat template takes contents as lists of parts."""
    dated: bool = False
    """Whether its chat template writes the date."""

    @property
    def on_hub(self) -> bool:
        """Tell whether anybody can fetch the base by its name."""
        return bool(self.revision)

    @property
    def quantised_already(self) -> bool:
        """Tell whether the base's own files are quantised."""
        return "quantization_config" in self.config


def origin_of(saved: SavedAdapter, base_folder: Path | None = None) -> Origin:
    """Read what the card and, where they are at hand, the base's files say.

    Raises `AdapterError` when `base_folder`, or the starter here, is not the base the adapter was made on.
    """
    made_on = saved.card["base"]
    name, revision, bits = str(made_on["name"]), str(made_on.get("revision", "")), int(made_on.get("bits", 4))
    folder = base_folder or _folder(name, revision)
    config: dict[str, Any] = {}
    found = Words({})
    if folder is not None:
        config = _check_base(saved, folder, bits)
        found = _tokenizer(folder)
    licence = "apache-2.0" if name == "starter" else _licence(folder)
    return Origin(
        name, revision, bits, str(made_on.get("architecture", "")), folder, config, licence=licence, **found._asdict()
    )


def load_of(saved: SavedAdapter, near: LoadSettings, base: str = "") -> LoadSettings:
    """Say how to load the base an adapter was made on, with as many bits; other settings are those of `near`.

    A folder has no name that finds it again: it is `base`, or the one `near` names. Raises `ExportError` where
    neither is.
    """
    made_on = saved.card["base"]
    name, revision = str(made_on["name"]), str(made_on.get("revision", ""))
    changes: dict[str, Any] = {"base": base, "revision": "", "bits": int(made_on.get("bits", 4))}
    beside = Path(near.base).expanduser()
    if not base and (name == "starter" or revision):
        changes |= {"base": name, "revision": revision}
    elif not base and beside.is_dir() and beside.resolve().name == name:
        changes["base"] = near.base
    elif not base:
        raise ExportError(
            f"adapter {saved.name} was made on {name}, a folder that is not at hand, and without it nothing can be "
            "checked; pass it with --base FOLDER, or load it as the base"
        )
    return near.model_copy(update=changes)


def skeleton_of(origin: Origin) -> Any:
    """Make the base without weights, from its config; None where that takes its files or its own code."""
    if origin.folder is None or "auto_map" in origin.config:
        return None
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(origin.folder))


def kept_16bit(origin: Origin) -> list[str]:
    """Name the layers our loader did not quantise, from the shapes alone."""
    if origin.bits == 16:
        return []
    skeleton = skeleton_of(origin)
    if skeleton is None:
        return list(HEAD_ONLY)
    from lorarlhf.base_weights import layers_kept_16bit

    return list(layers_kept_16bit(skeleton, origin.bits))


def check_classifier(origin: Origin, layers: set[str], adapter: str) -> None:
    """Make sure that transformers has a sequence classifier with the same layers and a head called `score`.

    Raises `AdapterError` otherwise: PEFT would leave out what has no place, with a warning at most.
    """
    kind, name = _classifier_of(origin)
    if not name:
        raise AdapterError(
            f"adapter {adapter}: transformers has no sequence classifier for {kind or origin.architecture}, "
            "so there is nothing to load a reward model into; score with lorarlhf itself instead"
        )
    import torch
    import transformers

    cls = getattr(transformers, name)
    generic = "GenericForSequenceClassification" in {c.__name__ for c in cls.__mro__}
    if not generic and kind not in OWN_SCORE:
        raise AdapterError(
            f"adapter {adapter}: the head of transformers' {name} is not a single linear layer called score, "
            "so a reward model does not fit; score with lorarlhf itself instead"
        )
    if origin.folder is None or "auto_map" in origin.config:
        return
    config = transformers.AutoConfig.from_pretrained(origin.folder, num_labels=1)
    with torch.device("meta"):
        there = {path for path, _ in cls._from_config(config).named_modules()}
    if missing := sorted(layers - there):
        raise AdapterError(
            f"adapter {adapter}: transformers' {name} has no layer {missing[0]}, so the reward model does not fit; "
            "score with lorarlhf itself instead"
        )


def _classifier_of(origin: Origin) -> tuple[str, str]:
    """Find the model type and the name of its sequence classifier; empty where there is none."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    causal = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    fitting = [kind for kind, name in causal.items() if name == origin.architecture]
    kinds = [str(origin.config["model_type"])] if "model_type" in origin.config else fitting
    classifiers = dict(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)
    found = next((kind for kind in kinds if kind in classifiers), "")
    return (found, str(classifiers[found])) if found else (next(iter(kinds), ""), "")


def _folder(name: str, revision: str) -> Path | None:
    """Find the base's files without asking the network."""
    if name == "starter":
        from lorarlhf.starter import MODEL_DIR

        return MODEL_DIR
    if not revision:
        return None
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError):  # not in the cache; the export then says less
        return None
    return folder if (folder / "config.json").is_file() else None


def _licence(folder: Path | None) -> str:
    """Read the licence from the front matter of the base's own card."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8") if folder else ""
        head = yaml.safe_load(text.split("---")[1]) if text.startswith("---") else {}
    except (OSError, ValueError, IndexError, yaml.YAMLError):
        return ""
    found = head.get("license", "") if isinstance(head, dict) else ""
    return found if isinstance(found, str) else ""


def _check_base(saved: SavedAdapter, folder: Path, bits: int) -> dict[str, Any]:
    made_on = saved.card["base"]
    try:
        files = find_files(LoadSettings.parse({"base": str(folder), "bits": bits}))
    except BaseModelError as error:
        raise AdapterError(f"adapter {saved.name}: its base {made_on['name']} can't be read: {error}") from None
    if fingerprint(files) != made_on["fingerprint"]:
        raise AdapterError(
            f"adapter {saved.name} was made on another {made_on['name']} than the one in {folder}; pass its own base"
        )
    return files.config


class Words(NamedTuple):
    """What a base's tokenizer says; as in `Origin`."""

    tokenizer: dict[str, bytes]
    end: tuple[int, str] | None = None
    parts: bool = False
    dated: bool = False


def _tokenizer(folder: Path) -> Words:
    """Read the tokenizer's files, with a chat template in any case, and find the token that ends an answer."""
    from transformers import AutoTokenizer

    paths = sorted({path for pattern in TOKENIZER_FILES for path in folder.glob(pattern) if path.is_file()})
    files = {path.name: path.read_bytes() for path in paths}
    if "tokenizer_config.json" in files:
        files["tokenizer_config.json"] = _without_paths(files["tokenizer_config.json"])
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, ImportError):  # the base's own code, or a package that is not here
        return Words(files)
    if not tokenizer.chat_template:
        adds_bos = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        files["chat_template.jinja"] = (("{{- bos_token -}}\n" if adds_bos else "") + PLAIN_TEMPLATE).encode()
    end = end_of_turn_id(tokenizer)
    named = None if end is None else (end, str(tokenizer.convert_ids_to_tokens(end)))
    return Words(files, named, wants_parts(tokenizer), is_dated(tokenizer))


def ends_of(origin: Origin) -> list[int]:
    """List every token that ends an answer, the one of the chat template first."""
    listed: Any = None
    if origin.folder is not None and (origin.folder / "generation_config.json").is_file():
        config = json.loads((origin.folder / "generation_config.json").read_text(encoding="utf-8"))
        listed = config.get("eos_token_id")
    listed = listed if listed is not None else origin.config.get("eos_token_id")
    others = listed if isinstance(listed, list) else [listed]
    return list(dict.fromkeys(i for i in [origin.end[0] if origin.end else None, *others] if i is not None))


def _without_paths(content: bytes) -> bytes:
    """Drop the key in which older tokenizers keep the folder they were loaded from."""
    config = json.loads(content)
    kept = {key: value for key, value in config.items() if key not in ("name_or_path", "_name_or_path")}
    return content if kept == config else (json.dumps(kept, indent=2, ensure_ascii=False) + "\n").encode()
