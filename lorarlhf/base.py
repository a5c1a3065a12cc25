"""Load the frozen base once: any causal language model of transformers, in 4, 8 or 16 bits.

The base is never trained and never altered; roles are adapters on top of it. Knows nothing of adapters, votes or
jobs. Failures are `BaseModelError`s of one line, found before the weights are read wherever that is possible.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from lorarlhf.attention import packs, use_own_attention
from lorarlhf.base_files import find_files, fingerprint
from lorarlhf.base_look import BaseFiles
from lorarlhf.base_weights import QUANTISED, base_hash, bytes_needed, layers_kept_16bit, measured_bytes
from lorarlhf.data.chat import check_template, end_of_turn_id, ensure_pad
from lorarlhf.errors import BaseModelError
from lorarlhf.hardware import free_bytes, keep_little_back, pick_device, pick_dtype, why_no_quantisation
from lorarlhf.output import backbone, check_output_layer, logits_of
from lorarlhf.settings import LoadSettings

__all__ = ["Base", "LoadReport", "base_hash", "load_base"]

Progress = Callable[[str, float], None]
"""Is told what happens now, and the share that is done (0 to 1)."""


@dataclass(frozen=True)
class LoadReport:
    """What loading did, in numbers and words to show."""

    parameters: int
    bytes_on_device: int
    quantised_layers: int
    kept_16bit: dict[str, str]
    """Layer name → why it was not quantised."""
    compute_why: str
    pad_why: str
    seconds: float


@dataclass(frozen=True)
class Base:
    """A frozen base with its tokenizer; shared by every role, never copied."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: LoadSettings
    folder: Path
    """Where its files are, for exports that need them untouched."""
    device: torch.device
    compute_dtype: torch.dtype
    eos_id: int
    """The token written after an answer."""
    eos_ids: frozenset[int]
    """Every token that ends an answer while generating."""
    identity: dict[str, Any]
    """For adapter cards: name, revision, bits, architecture, fingerprint."""
    report: LoadReport
    packs: bool = False
    """Whether rows can go through it one behind the other, without padding."""

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)  # type: ignore[arg-type]

    @property
    def backbone(self) -> nn.Module:
        """The transformer below the output layer."""
        return backbone(self.model)

    @property
    def vocabulary(self) -> int:
        """Number of logits."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def hidden_size(self) -> int:
        return int(self.model.config.get_text_config().hidden_size)

    def logits_of(self, hidden_TH: torch.Tensor) -> torch.Tensor:
        """Map hidden states of the backbone to logits as the model itself does → [T, V]."""
        return logits_of(self.model, hidden_TH)

    def linear_names(self) -> list[str]:
        """Name the kinds of layers an adapter can sit on, such as q_proj."""
        head = self.model.get_output_embeddings()
        layers = {n: m for n, m in self.model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head}
        found = {n.removesuffix(".base_layer").rpartition(".")[2] for n in layers if "lora_" not in n}
        return sorted(found)


def load_base(settings: LoadSettings, progress: Progress | None = None) -> Base:
    """Load what `settings` name, frozen and in eval mode; raise `BaseModelError` with one line if that fails."""
    tell = progress or (lambda text, share: None)
    started = time.monotonic()
    keep_little_back()
    with _quiet():
        tell("Looking for the base model", 0.0)
        device = pick_device(settings.device)
        dtype, why = pick_dtype(settings.compute, device)
        files = find_files(settings)
        tell("Reading the tokenizer", 0.1)
        config = _guard(files, _load_config, files, settings)
        tokenizer = _guard(files, _load_tokenizer, files, settings)
        kept = _guard(files, _plan, files, config, settings, dtype, device)
        tell("Loading the weights", 0.2)
        model = _guard(files, _load_model, files, config, settings, kept, device, dtype)
    tell("Checking the model", 0.95)
    pad_why = _guard(files, ensure_pad, tokenizer, model.get_input_embeddings().num_embeddings)
    _guard(files, check_template, tokenizer)
    eos_id, eos_ids = _guard(files, _end_ids, model, tokenizer, files.name)
    _settle(model, dtype, tokenizer, eos_ids)
    _guard(files, check_output_layer, model)
    report = LoadReport(
        parameters=model.num_parameters(),
        bytes_on_device=measured_bytes(model),
        quantised_layers=sum(type(m).__name__ in QUANTISED for m in model.modules()),
        kept_16bit=layers_kept_16bit(model, settings.bits) if _prequantised(files) else kept,
        compute_why=why,
        pad_why=pad_why,
        seconds=time.monotonic() - started,
    )
    identity = {
        "name": files.name,
        "revision": files.revision,
        "bits": settings.bits,
        "architecture": type(model).__name__,
        "fingerprint": fingerprint(files),
    }
    tell("Base model ready", 1.0)
    together = packs(model, backbone(model))
    return Base(model, tokenizer, settings, files.folder, device, dtype, eos_id, eos_ids, identity, report, together)


def _load_config(files: BaseFiles, settings: LoadSettings) -> Any:
    config = AutoConfig.from_pretrained(files.folder, trust_remote_code=settings.trust_remote_code)
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        for name, value in vars(part).items():
            if "drop" in name and isinstance(value, float):
                # Dropout makes the ratio of PPO random; off for good, also in train mode.
                setattr(part, name, 0.0)
    return config


def _load_tokenizer(files: BaseFiles, settings: LoadSettings) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(
        files.folder,
        trust_remote_code=settings.trust_remote_code,
        padding_side="left",
        truncation_side="left",
        # Else some tokenizers take the blanks before full stops from answers, or transformers warns that it will not.
        clean_up_tokenization_spaces=False,
    )


def _prequantised(files: BaseFiles) -> bool:
    return "quantization_config" in files.config


def _plan(
    files: BaseFiles, config: Any, settings: LoadSettings, dtype: torch.dtype, device: torch.device
) -> dict[str, str]:
    """Decide which layers are not quantised; raise if the result can't work or does not fit."""
    reason = why_no_quantisation(device) if settings.bits < 16 else ""
    if reason:
        raise BaseModelError(
            f"{settings.bits}-bit bases need bitsandbytes, which does not work on {device} ({reason}); "
            "`pip install -U 'bitsandbytes>=0.50'`, or load it in 16 bits"
        )
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=settings.trust_remote_code)
    kept = layers_kept_16bit(skeleton, settings.bits)
    if _prequantised(files):
        needed = sum(tensor.end - tensor.begin for tensor in files.tensors.values())
    else:
        needed = bytes_needed(skeleton, kept, settings.bits, dtype)
    # While it loads, the largest matrix is there a second time, unquantised.
    peak = needed + max((w.numel() for w in skeleton.parameters()), default=0) * dtype.itemsize
    free = free_bytes(device)
    if peak > free:
        advice = "load it in 4 bits" if settings.bits > 4 else "close other programs or take a smaller base"
        raise BaseModelError(
            f"{files.name} needs {peak / 2**30:.1f} GiB on {device} at {settings.bits} bits, "
            f"{free / 2**30:.1f} GiB are free; {advice}"
        )
    return kept


def _load_model(
    files: BaseFiles,
    config: Any,
    settings: LoadSettings,
    kept: dict[str, str],
    device: torch.device,
    dtype: torch.dtype,
) -> PreTrainedModel:
    quantisation = None
    if settings.bits == 4 and not _prequantised(files):
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=list(kept),
        )
    elif settings.bits == 8 and not _prequantised(files):
        quantisation = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(kept))
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        files.folder,
        config=config,
        dtype=dtype,
        device_map={"": device},
        quantization_config=quantisation,
        use_safetensors=True,
        trust_remote_code=settings.trust_remote_code,
        output_loading_info=True,
    )
    model, info = loaded
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers fills them with random numbers and goes on.
        raise ValueError(f"its files lack {len(missing)} weights of the model, such as {missing[0]}")
    if settings.bits < 16 and device.type == "cpu":
        _leave_files(model)
    return model


def _leave_files(model: PreTrainedModel) -> None:
    """Copy the weights that were not quantised out of the mapped files.

    One of them is enough to keep a whole file mapped, and with it the 16-bit weights that were only read to quantise
    them: 1 GB of a base of 0.5B that takes 450 MB in 4 bits.
    """
    for weight in model.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.clone()


def _settle(
    model: PreTrainedModel, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase, eos_ids: frozenset[int]
) -> None:
    """Freeze the model and take out what would make its numbers depend on anything but its input."""
    model.eval().requires_grad_(False)
    module: Any
    for module in model.modules():
        if type(module).__name__ == "Linear4bit":
            module.compute_dtype, module.compute_type_is_set = dtype, True
            # On processors with AVX512-BF16 bitsandbytes else repacks a weight in place at its first forward without
            # gradient: scales are rounded for good, and later no gradient passes through the layer, silently.
            module.support_avx512bf16_for_cpu = False
    use_own_attention(model)
    model.config.use_cache = True
    # Many bases bring top_k, temperature or penalties of their own, which would bend every draw.
    model.generation_config = GenerationConfig(
        eos_token_id=sorted(eos_ids), pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id
    )


def _end_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[int, frozenset[int]]:
    """Collect the tokens that end an answer: the template's, the tokenizer's, the generation config's."""
    listed = getattr(model.generation_config, "eos_token_id", None)
    ids = {i for i in (listed if isinstance(listed, list | tuple) else [listed]) if i is not None}
    eos = end_of_turn_id(tokenizer)
    if eos is None and ids:
        eos = min(ids)
    if eos is None:
        raise BaseModelError(f"{name}: its tokenizer names no end-of-text token, so answers never end; set eos_token")
    return eos, frozenset({*ids, eos, tokenizer.eos_token_id} - {None})


def _guard(files: BaseFiles, step: Callable[..., Any], *args: Any) -> Any:
    """Run one step of loading; turn what the libraries raise into one line that says what to do."""
    try:
        return step(*args)
    except BaseModelError:
        raise
    except torch.OutOfMemoryError:
        raise BaseModelError(
            f"{files.name} does not fit into memory; load it in 4 bits or take a smaller base"
        ) from None
    except ImportError as error:
        raise BaseModelError(f"{files.name} needs a package that is missing ({_line(error)}); install it") from None
    except Exception as error:  # a base may run code of anybody's; whatever it raises ends here, as one line
        raise BaseModelError(f"{files.name} can't be loaded ({_line(error)}); check that its files are whole") from None


def _line(error: BaseException) -> str:
    """Say what a library's error says, in one line that is not too long."""
    if "ignore_mismatched_sizes" in str(error):
        return "its weights have other shapes than its config.json says"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence progress bars, logs and warnings of the libraries while they load."""
    # Said at import on some processors, about a download nobody asked for; and at every 8-bit product.
    for chatter in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
        logging.getLogger(chatter).setLevel(logging.ERROR)
    log = transformers.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity(logging.CRITICAL)
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
