"""Many adapters on one frozen base, one of them active at a time.

PEFT keeps several adapters in the same layers, but its own switch also changes what is trainable, and a backward
pass after a switch then loses or corrupts gradients without a word. Here a switch touches nothing but the switch,
lasts as long as a `with` block, and always falls back to the bare base; whoever wants gradients must finish
forward *and* backward inside the block. Scalar heads are plain layers owned by their adapter, outside PEFT.

Knows nothing of votes, stages or losses.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftConfig, PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from lorarlhf.base import Base
from lorarlhf.errors import AdapterError
from lorarlhf.files import whole_folder
from lorarlhf.library import CARD, HEAD, WEIGHTS, SavedAdapter, read_saved
from lorarlhf.lora import fuse, merged
from lorarlhf.settings import LoraSettings

UNPACKED_MOST = 2**30
"""Bytes of a base unpacked to draw answers; a step of training takes more than that on a base of this size."""


class AdapterBank:
    """The adapters that live on one base."""

    def __init__(self, base: Base) -> None:
        self.base = base
        self.heads: dict[str, nn.Linear] = {}
        self._frozen: set[str] = set()
        self._peft: PeftModel | None = None
        self._layers: list[LoraLayer] = []
        self._paths: list[str] = []
        self._active: str | None = None
        self._model = base.model

    @property
    def names(self) -> list[str]:
        """Name every adapter in memory, in the order they came."""
        return list(self._peft.peft_config) if self._peft else []

    # -- coming and going -------------------------------------------------------------------------------------

    def create(self, name: str, settings: LoraSettings, *, head: bool = False, seed: int = 0) -> None:
        """Add a new adapter that changes nothing yet (B = 0), trainable, with a fresh head if asked.

        The head starts as N(0, 1/√(H+1)) with bias 0 (arXiv 2403.17031, detail 12).
        """
        targets: str | list[str] = settings.targets
        if targets != "all-linear":
            targets = [t.strip() for t in settings.targets.split(",")]
        config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=0.0,
            bias="none",
            target_modules=targets,
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._add(name, config)
        if head:
            self.add_head(name, seed)

    def add_head(self, name: str, seed: int = 0) -> None:
        """Give an adapter a fresh scalar head, in place of any it had."""
        self._require(name)
        linear = self._new_head(name)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            weight = torch.randn(linear.weight.shape) / (self.base.hidden_size + 1) ** 0.5
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.zero_()

    def copy(self, source: str, target: str) -> None:
        """Add `target` as an exact, trainable copy of `source`, head included."""
        self._require(source)
        assert self._peft is not None
        self._add(target, deepcopy(self._peft.peft_config[source]))
        if source in self.heads:
            self._new_head(target)
        self.load_state(target, {key: value.clone() for key, value in self.state(source).items()})

    def delete(self, name: str) -> None:
        """Forget an adapter and its head; refused while it is active."""
        self._require(name)
        if self._active == name:
            raise AdapterError(f"adapter {name} is in use; let its job end first")
        assert self._peft is not None
        self.heads.pop(name, None)
        self._frozen.discard(name)
        if len(self.names) == 1:
            self._model = self._peft.unload()  # PEFT cannot hold zero adapters: give the bare layers back
            self._peft = None
        else:
            self._peft.delete_adapter(name)
        self._refresh()

    def _add(self, name: str, config: PeftConfig) -> None:
        if name in self.names:
            raise AdapterError(f"adapter {name} is already in memory; choose another name")
        if "." in name:  # given before such names were refused, or by renaming its folder
            raise AdapterError(f"adapter {name}: PEFT can hold no name with a dot; rename the adapter, without it")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by an older name
                if self._peft is None:
                    self._peft = PeftModel(self._model, config, adapter_name=name)
                else:
                    self._peft.add_adapter(name, config)
        except ValueError as error:
            if "target modules" not in str(error).lower():
                raise
            wanted = getattr(config, "target_modules", None)
            raise AdapterError(
                f"targets {wanted}: the base has no such layers; use 'all-linear' or one of {self.base.linear_names()}"
            ) from None
        self._refresh()

    def _new_head(self, name: str) -> nn.Linear:
        self.heads[name] = nn.Linear(self.base.hidden_size, 1, device=self.base.device, dtype=torch.float32)
        return self.heads[name]

    def _refresh(self) -> None:
        """Find the adapted layers again and restore what PEFT's own bookkeeping changed behind our back."""
        found = {path: module for path, module in self._model.named_modules() if isinstance(module, LoraLayer)}
        self._paths, self._layers = list(found), list(found.values())
        for layer in self._layers:
            fuse(layer)
        for name in self.names:
            for parameter in self.parameters(name):
                parameter.requires_grad_(name not in self._frozen)
        self._switch(self._active)

    # -- switching --------------------------------------------------------------------------------------------

    @contextmanager
    def activate(self, name: str | None) -> Iterator[None]:
        """Run the block with one adapter on the base, or with the bare base (None).

        Blocks do not nest: a switch between a forward pass and its backward pass, or its recomputation under
        gradient checkpointing, would compute other gradients than the ones asked for.
        """
        if name is not None:
            self._require(name)
        if self._active is not None:
            raise AdapterError(f"adapter {self._active} is active; finish its forward and backward pass first")
        self._switch(name)
        try:
            yield
        finally:
            self._switch(None)

    @contextmanager
    def drawing(self, name: str | None) -> Iterator[None]:
        """Run the block with one adapter, made ready to draw answers: on a processor small bases are unpacked for it.

        Which bases are small is a constant, not a matter of free memory: the same run must draw the same answers.
        """
        layers: list[Any] = self._layers
        unpacked = sum(layer.in_features * layer.out_features for layer in layers)
        small = self.base.device.type == "cpu" and unpacked * self.base.compute_dtype.itemsize <= UNPACKED_MOST
        with self.activate(name), merged(self._layers if small else (), name):
            yield

    def _switch(self, name: str | None) -> None:
        # PEFT's set_adapter also flips requires_grad in every layer, which is slow and loses gradients.
        self._active = name
        for layer in self._layers:
            layer._disable_adapters = name is None
            layer._active_adapter = [name] if name is not None else []

    def freeze(self, name: str) -> None:
        """Make an adapter and its head untrainable, and keep them so whatever is switched."""
        self._require(name)
        self._frozen.add(name)
        self._refresh()

    def unfreeze(self, name: str) -> None:
        """Make a frozen adapter and its head trainable again."""
        self._require(name)
        self._frozen.discard(name)
        self._refresh()

    # -- contents ---------------------------------------------------------------------------------------------

    def parameters(self, name: str) -> list[nn.Parameter]:
        """List the parameters of an adapter and its head, in a fixed order."""
        found = [
            parameter
            for layer in self._layers
            for group in (layer.lora_A, layer.lora_B)
            if name in group
            for parameter in group[name].parameters()
        ]
        return found + (list(self.heads[name].parameters()) if name in self.heads else [])

    def bytes_of(self, name: str) -> int:
        """Return the memory an adapter and its head occupy, in bytes."""
        return sum(p.numel() * p.element_size() for p in self.parameters(name))

    def state(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of an adapter in PEFT's naming, plus `head.weight` and `head.bias`; not copies.

        PEFT's own function walks through the whole model for it, three times in every step of training.
        """
        self._require(name)
        tensors = {
            f"base_model.model.{path}.{part}.weight": getattr(layer, part)[name].weight.detach()
            for path, layer in zip(self._paths, self._layers, strict=True)
            for part in ("lora_A", "lora_B")
            if name in getattr(layer, part)
        }
        head = self.heads[name].state_dict() if name in self.heads else {}
        return tensors | {f"head.{key}": value for key, value in head.items()}

    def load_state(self, name: str, tensors: dict[str, Tensor]) -> None:
        """Overwrite an adapter with tensors as `state` gives them; raise `AdapterError` if any is missing."""
        mine = self.state(name)
        if mine.keys() != tensors.keys() or any(mine[k].shape != tensors[k].shape for k in mine):
            raise AdapterError(f"adapter {name}: the saved weights do not fit its layers; was it made on another base?")
        for key, tensor in mine.items():
            tensor.copy_(tensors[key])

    def _require(self, name: str) -> None:
        if name not in self.names:
            raise AdapterError(f"no adapter {name} in memory; there are: {', '.join(self.names) or 'none'}")

    # -- on disk ----------------------------------------------------------------------------------------------

    def save(self, name: str, folder: Path, card: dict[str, Any], *, overwrite: bool = False) -> None:
        """Write an adapter folder that plain PEFT loads: config, weights, head and card; whole or not at all."""
        tensors = {key: value.contiguous().cpu() for key, value in self.state(name).items()}
        head = {key[5:]: tensors.pop(key) for key in list(tensors) if key.startswith("head.")}
        files = {WEIGHTS: to_bytes(tensors, metadata={"format": "pt"})}
        hashes = {"adapter": hashlib.sha256(files[WEIGHTS]).hexdigest()}
        if head:
            files[HEAD] = to_bytes(head, metadata={"format": "pt"})
            hashes["head"] = hashlib.sha256(files[HEAD]).hexdigest()
        card = {**card, "name": folder.name, "base": self.base.identity, "hashes": hashes}
        assert self._peft is not None
        config = deepcopy(self._peft.peft_config[name])
        config.inference_mode = True
        config.base_model_name_or_path = self.base.identity["name"]
        with whole_folder(folder, overwrite=overwrite) as aside:
            config.save_pretrained(str(aside))
            for file, content in files.items():
                (aside / file).write_bytes(content)
            (aside / CARD).write_text(json.dumps(card, indent=2, ensure_ascii=False, default=str) + "\n")

    def load(self, name: str, folder: Path, *, frozen: bool = False) -> SavedAdapter:
        """Read an adapter folder into memory as `name`; raise `AdapterError` for a torn or foreign one."""
        saved = read_saved(folder)
        made_on, here = saved.card["base"], self.base.identity
        if made_on["fingerprint"] != here["fingerprint"]:
            raise AdapterError(
                f"adapter {folder.name} was made on base {made_on['name']}, not on {here['name']}; load its own base"
            )
        tensors = _read_weights(saved)
        self._add(name, LoraConfig.from_pretrained(str(folder)))
        if saved.has_head:
            self._new_head(name)
        try:
            self.load_state(name, tensors)
        except AdapterError:
            self.delete(name)
            raise
        (self.freeze if frozen else self.unfreeze)(name)
        return saved


def _read_weights(saved: SavedAdapter) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for part, prefix in (("adapter", ""), ("head", "head.")):
        if part in saved.card["hashes"]:
            try:
                found = from_bytes(saved.content(part))
            except SafetensorError:
                raise AdapterError(f"adapter {saved.name}: its {part} is damaged; restore it from a copy") from None
            tensors |= {prefix + key: value for key, value in found.items()}
    return tensors
