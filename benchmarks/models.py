"""Random bases in the shape of well-known ones: they take the memory and time of trained ones and need no download."""

from __future__ import annotations

from typing import Any

from lorarlhf.plan.shapes import Shape


def config_of(shape: Shape) -> Any:
    """Make the transformers config of a shape: a Qwen3 where queries and keys are normalised, else a Llama."""
    from transformers import LlamaConfig, Qwen3Config

    head = shape.queries // shape.heads
    return (Qwen3Config if shape.head_norms else LlamaConfig)(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.keys // head,
        head_dim=head,
        max_position_embeddings=shape.context,
        tie_word_embeddings=shape.tied,
    )
