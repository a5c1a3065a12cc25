"""A card that is played on the processor: tensors on the device `card` that refuse to meet the processor's.

Code that mixes devices runs well where there is but one, and breaks down on the first real card. `with card():` gives
a device whose tensors hold their numbers on the processor and raise what CUDA raises when they meet others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

MAY_MIX = ("aten::copy_", "aten::_to_copy", "aten::index", "aten::index_put", "aten::_index_put_impl")
"""What CUDA lets meet: copies, and a card's tensor with an index that lies with the processor."""


class CardTensor(torch.Tensor):
    """A tensor that says it is on the card."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> CardTensor:
        made: CardTensor = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device("card", 0),
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"CardTensor({self.inner})"

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("a tensor of the card has to be copied to the processor first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    on_card = [t for t in tensors if isinstance(t, CardTensor)]
    # Only where elements meet one by one does a card take a single number from the processor.
    number = torch.Tag.pointwise in func.tags or "fill" in name
    elsewhere = [t for t in tensors if not isinstance(t, CardTensor) and not (number and t.dim() == 0)]
    if on_card and elsewhere and not name.startswith(MAY_MIX):
        raise RuntimeError(f"{name}: expected all tensors on the same device, but found card:0 and cpu")
    asked = kwargs.get("device")
    inner_args, inner_kwargs = tree_map(lambda x: x.inner if isinstance(x, CardTensor) else x, (args, kwargs))
    if asked is not None:
        inner_kwargs["device"] = torch.device("cpu")
    found = func(*inner_args, **inner_kwargs)
    if name.endswith("_") and tensors:  # in place: what was given is what comes back
        return args[0]
    there = bool(on_card) if asked is None else torch.device(asked).type == "card"
    return tree_map(lambda x: CardTensor(x) if there and isinstance(x, torch.Tensor) else x, found)


class _Playing(TorchDispatchMode):
    """Lets factories make tensors on the card."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def card() -> Iterator[torch.device]:
    """Run the block with a card to be had."""
    if not hasattr(torch, "card"):
        backend_registration._setup_privateuseone_for_python_backend("card")
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Playing():
            yield torch.device("card", 0)
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
