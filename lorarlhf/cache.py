"""Keys and values of answers being drawn, in tensors with room for the tokens to come.

transformers' own cache makes a new tensor for every token, and copies into it all that it held: a third of the time of
drawing 512 tokens. Here a tensor is copied when its room is full, once in `ROOM` tokens. Attention is handed the whole
tensor, with a mask over the room that is empty yet: a processor would copy the filled part of each row together first,
and oneDNN write code for every new length of it.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens by which a tensor grows (a test compares the plan's)."""


def roomy_cache(config: PreTrainedConfig) -> DynamicCache:
    """Make an empty cache for a model; layers that look back on a window only, or keep other states, are as usual."""
    cache = DynamicCache(config=config)
    cache.layers = [_RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class _RoomyLayer(DynamicLayer):
    """Keys and values of one layer [B, G, tokens and room, D]; the room is 0, which no mask need fear."""

    def __init__(self) -> None:
        super().__init__()
        self.filled = 0

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add tokens [B, G, T, D] → the first ones as they are, later all keys and values with their room."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        start, self.filled = self.filled, self.filled + key_states.shape[2]
        self.keys = self._put(self.keys, key_states, start)
        self.values = self._put(self.values, value_states, start)
        return (self.keys, self.values) if start else (key_states, value_states)

    def _put(self, held: Tensor | None, new: Tensor, start: int) -> Tensor:
        """Write new ones behind the first `start`, in a larger tensor where there is no room."""
        assert held is not None
        if self.filled > held.shape[2]:
            rows, groups, _, depth = held.shape
            larger = held.new_zeros(rows, groups, _roomy(self.filled), depth)
            larger[:, :, :start] = held[:, :, :start]
            held = larger
        held[:, :, start : self.filled] = new
        return held

    def get_seq_length(self) -> int:
        """Count the tokens held."""
        return self.filled

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Tell how many keys the next update will return, and that the first of them is the first token."""
        return _roomy(self.filled + query_length) if self.filled else query_length, 0


def _roomy(tokens: int) -> int:
    return -(-tokens // ROOM) * ROOM
