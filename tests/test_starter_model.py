"""The shipped weights: they load, they talk, they stop, and they leave something to learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lorarlhf import starter
from lorarlhf.starter.measure import Report, draw, load, report
from lorarlhf.starter.tokenizer import BOS, EOS, PAD


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(starter.MODEL_DIR)


@pytest.fixture(scope="module")
def sampled() -> Report:
    model, tokenizer = load()
    return report(draw(model, tokenizer, starter.prompts(heldout=True)[::3][:64], seed=1, rows=64))


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_any_text_survives_the_tokenizer(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not any(mark in text for mark in tokenizer.all_special_tokens):
        assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text


def test_special_tokens_are_distinct(tokenizer: Any) -> None:
    assert (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token) == (PAD, BOS, EOS)
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}) == 3
    assert tokenizer.pad_token_id is not None


def test_the_chat_template_renders_all_roles(tokenizer: Any) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": " Where is it? "},
    ]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == ("<|begin|><|system|>Be kind.<|user|>Hello.<|assistant|>Hi.<|end|><|user|>Where is it?<|assistant|>")
    whole = tokenizer.apply_chat_template(messages[:3], tokenize=False)
    assert text.startswith(whole)
    assert whole.endswith(EOS)


def test_every_linear_layer_can_be_quantised_to_nf4() -> None:
    model, _ = load()
    layers = [m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    assert len(layers) == 7 * model.config.num_hidden_layers
    assert all(layer.in_features % 64 == 0 for layer in layers)
    assert model.generation_config.eos_token_id != model.generation_config.pad_token_id
    assert model.num_parameters() < 4_000_000


def test_replies_come_to_an_end(sampled: Report) -> None:
    assert sampled.ended >= 0.9


def test_replies_are_mixed_and_leave_room_to_learn(sampled: Report) -> None:
    assert 0.4 <= sampled.total <= 0.7
    assert 0.1 <= sampled.manners["good"] <= 0.4
    assert set(sampled.manners) >= {"good", "curt", "rude", "rambling", "wrong", "repeating"}


def test_a_polite_reply_to_a_new_wording_mostly_answers_it(sampled: Report) -> None:
    assert sampled.answered >= 0.5
