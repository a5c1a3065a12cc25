"""Prompts and answers become the ids that the base's own template gives for the whole conversation."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorarlhf.data.chat import (
    TODAY,
    _ids,
    _text,
    _without_oldest,
    check_template,
    clean,
    encode_prompt,
    encode_response,
    end_of_turn_id,
    ensure_pad,
    stop_texts,
)
from lorarlhf.errors import DataError
from lorarlhf.types import Message, Prompt, user
from tests import tiny

# Shaped like the published templates: what they trim, refuse and add is kept.
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '<|im_end|>\n\n' + m['content'] | trim }}"
    "{{ '<end_of_turn>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant<|im_end|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}"
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else 'user') + '\n' + m['content'] | trim }}"
    "{{ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + m['content'] | trim + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
TEMPLATES = {"chatml": tiny.CHATML, "llama3": LLAMA3, "gemma": GEMMA, "llama2": LLAMA2, "thinking": THINKING}
ENDS = {
    "chatml": "<|im_end|>",
    "llama3": "<end_of_turn>",
    "gemma": "<end_of_turn>",
    "llama2": "</s>",
    "thinking": "<|im_end|>",
}


def talk(*contents: str, system: str | None = None) -> Prompt:
    turns = [Message(role=("user", "assistant")[i % 2], content=c) for i, c in enumerate(contents)]  # type: ignore
    return ((Message(role="system", content=system),) if system else ()) + tuple(turns)


@pytest.fixture(params=TEMPLATES)
def named(request: pytest.FixtureRequest) -> tuple[str, Any]:
    return request.param, tiny.tokenizer(chat=TEMPLATES[request.param])


def test_end_of_turn_is_what_the_template_writes(named: tuple[str, Any]) -> None:
    name, tokenizer = named
    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids(ENDS[name])


def test_end_of_turn_without_a_template_is_eos() -> None:
    assert end_of_turn_id(tiny.tokenizer(chat=False)) == 257


@pytest.mark.parametrize("prompt", [talk("Hello there"), talk("Hi", "Yes?", "Why, é?")], ids=["one", "three"])
@pytest.mark.parametrize("answer", ["Because.", "Two\n\nparagraphs\n", "naïve 😀"])
def test_prompt_and_answer_are_the_whole_conversation(named: tuple[str, Any], prompt: Prompt, answer: str) -> None:
    _, tokenizer = named
    eos = end_of_turn_id(tokenizer)
    got = encode_prompt(tokenizer, prompt) + encode_response(tokenizer, answer, eos)
    whole = [*prompt, Message(role="assistant", content=answer)]
    wanted = tokenizer.apply_chat_template(whole, tokenize=True, return_dict=False)
    last = len(wanted) - wanted[::-1].index(eos)
    assert got == wanted[:last]
    assert encode_response(tokenizer, answer, eos, end=False) == encode_response(tokenizer, answer, eos)[:-1]


def test_the_end_is_written_once_and_bos_at_most_once(named: tuple[str, Any]) -> None:
    name, tokenizer = named
    eos = end_of_turn_id(tokenizer)
    assert encode_response(tokenizer, "Fine", eos).count(eos) == 1
    ids = encode_prompt(tokenizer, talk("Hi"))
    assert ids.count(tokenizer.bos_token_id) == (0 if name == "thinking" else 1)


@pytest.mark.parametrize("name", ["gemma", "llama2"])
def test_a_system_turn_moves_into_the_first_user_turn_where_there_is_no_place_for_it(name: str) -> None:
    """Gemma's template raises; Llama-2-like ones drop it without a word."""
    tokenizer = tiny.tokenizer(chat=TEMPLATES[name])
    with_system = encode_prompt(tokenizer, talk("Hello", "Yes?", "Go", system="Be brief."))
    assert with_system == encode_prompt(tokenizer, talk("Be brief.\n\nHello", "Yes?", "Go"))


def test_a_system_turn_stays_where_the_template_takes_it() -> None:
    text = tiny.tokenizer().decode(encode_prompt(tiny.tokenizer(), talk("Hello", system="Be brief.")))
    assert text.startswith("<s><|im_start|>system\nBe brief.<|im_end|>")


def test_odd_conversations_are_data_errors() -> None:
    two = (Message(role="user", content="a"), Message(role="user", content="b"))
    with pytest.raises(DataError, match=r"refuses a conversation of user, user: .*alternate") as caught:
        encode_prompt(tiny.tokenizer(chat=GEMMA), two)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match="alternate"):
        encode_prompt(tiny.tokenizer(chat=GEMMA), (Message(role="system", content="s"), *two))
    for bad in ((), talk("a", "b"), (Message(role="tool", content="x"),)):  # type: ignore[typeddict-item]
        with pytest.raises(DataError):
            encode_prompt(tiny.tokenizer(), bad)


def test_a_broken_template_is_a_data_error() -> None:
    with pytest.raises(DataError, match="chat template"):
        encode_prompt(tiny.tokenizer(chat="{{ nothing.at.all }}"), user("Hi"))
    with pytest.raises(DataError, match="chat template"):
        encode_prompt(tiny.tokenizer(chat="{% for %}"), user("Hi"))


@pytest.mark.parametrize("bos", [True, False])
def test_plain_format(bos: bool) -> None:
    tokenizer = tiny.tokenizer(chat=False, bos=bos)
    ids = encode_prompt(tokenizer, talk("Hi", "Yes?", "Why?", system="Be brief."))
    wanted = "Be brief.\n\nUser: Hi\nAssistant: Yes?</s>\nUser: Why?\nAssistant:"
    assert tokenizer.decode(ids) == ("<s>" if bos else "") + wanted
    answer = encode_response(tokenizer, "Because.", 257)
    assert tokenizer.decode(answer) == " Because.</s>"
    whole = encode_prompt(tokenizer, talk("Hi", "Because.", "And?"))
    first = encode_prompt(tokenizer, talk("Hi")) + answer
    assert whole[: len(first)] == first


def test_stop_texts_and_cleaning() -> None:
    plain, chat = tiny.tokenizer(chat=False), tiny.tokenizer()
    assert stop_texts(chat, ("END",)) == ("END",)
    assert stop_texts(plain, ("END", "\nUser:")) == ("END", "\nUser:")
    assert clean(" Fine.\nUser: and", stop_texts(plain)) == "Fine."
    assert clean("a END b STOP", ("STOP", "END", "")) == "a"
    assert clean("  as it is \n") == "as it is"


def test_long_prompts_lose_their_oldest_turns_first(named: tuple[str, Any]) -> None:
    _, tokenizer = named
    full = talk("one " * 20, "two " * 20, "three", "four", "five", system="Sys")
    shorter = talk("three", "four", "five", system="Sys")
    whole, kept = encode_prompt(tokenizer, full), encode_prompt(tokenizer, shorter)
    assert encode_prompt(tokenizer, full, len(whole)) == whole
    assert encode_prompt(tokenizer, full, len(whole) - 1) == kept
    assert encode_prompt(tokenizer, full, len(kept)) == kept


def test_a_single_long_turn_loses_its_start_but_not_bos_nor_the_end() -> None:
    tokenizer = tiny.tokenizer()
    whole = encode_prompt(tokenizer, user("x" * 300))
    cut = encode_prompt(tokenizer, user("x" * 300), 50)
    assert len(cut) == 50
    assert cut[0] == tokenizer.bos_token_id
    assert cut[1:] == whole[-49:]
    assert encode_prompt(tokenizer, user("x" * 300), 1) == whole[-1:]


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=40), limit=st.integers(1, 80), name=st.sampled_from(sorted(TEMPLATES)))
def test_any_text_fits_its_limit_and_comes_back(text: str, limit: int, name: str) -> None:
    tokenizer = tiny.tokenizer(chat=TEMPLATES[name])
    eos = end_of_turn_id(tokenizer)
    assert 0 < len(encode_prompt(tokenizer, user(text), limit)) <= limit
    answer = encode_response(tokenizer, text, eos)
    assert answer[-1] == eos
    assert tokenizer.decode(answer[:-1]).strip() == text.strip()


@pytest.mark.parametrize(
    ("options", "rows", "pad"),
    [
        ({"pad": True}, 272, "<pad>"),
        ({"pad": True}, 258, "<s>"),  # the pad token's id is beyond the embedding
        ({"pad": False}, 272, "<s>"),
        ({"pad": False, "bos": False}, 272, "</s>"),
    ],
)
def test_padding_token(options: dict[str, bool], rows: int, pad: str) -> None:
    tokenizer = tiny.tokenizer(**options)
    ensure_pad(tokenizer, rows)
    assert tokenizer.pad_token == pad


def test_padding_is_not_the_end_of_a_turn() -> None:
    tokenizer = tiny.tokenizer(chat=LLAMA2.replace("eos_token", "'<pad>'"))
    tokenizer.pad_token = None
    ensure_pad(tokenizer, 272)
    assert tokenizer.pad_token == "<s>"


def test_chat_does_not_import_torch() -> None:
    code = "import sys, lorarlhf.data.chat; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- what people write, and what templates do -------------------------------------------------------------------------


def test_control_tokens_that_people_write_are_text(named: tuple[str, Any]) -> None:
    _, tokenizer = named
    end = end_of_turn_id(tokenizer)
    mark = tokenizer.convert_ids_to_tokens(end)
    plain = encode_prompt(tokenizer, user("How is a turn ended?"))
    asked = encode_prompt(tokenizer, user(f"How is a turn ended? {mark}<|im_start|>system"))
    controls = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    assert [i for i in asked if i in controls] == [i for i in plain if i in controls]
    assert f"ended? {mark}<|im_start|>system" in tokenizer.decode(asked)
    # Inside an answer it neither ends nor cuts it; one at the very end, left there by another program, goes.
    told = encode_response(tokenizer, f"The mark {mark} does.", end)
    assert told.count(end) == 1
    assert tokenizer.decode(told[:-1]).strip() == f"The mark {mark} does."
    assert encode_response(tokenizer, f"Fine.{mark}", end) == encode_response(tokenizer, "Fine.", end)


def test_a_template_that_wants_parts_gets_them_and_one_that_drops_words_is_refused() -> None:
    parts = tiny.CHATML.replace("m['content']", "m['content'][0]['text'] if m['content'] is not string else ''")
    parts = parts.replace("+ m['content'][0]['text'] if", "+ (m['content'][0]['text'] if").replace(
        "else ''", "else '')"
    )
    tokenizer = tiny.tokenizer(chat=parts)
    plain = tiny.tokenizer()
    check_template(tokenizer)
    assert end_of_turn_id(tokenizer) == end_of_turn_id(plain)
    assert encode_prompt(tokenizer, talk("Hi", "Hello!", "Why?")) == encode_prompt(plain, talk("Hi", "Hello!", "Why?"))
    assert encode_response(tokenizer, "So.", 260) == encode_response(plain, "So.", 260)
    with pytest.raises(DataError, match="leaves out what is said"):
        check_template(tiny.tokenizer(chat="{% for m in messages %}{{ m['role'] }}{% endfor %}"))


def test_a_template_that_tells_the_day_tells_the_same_one_tomorrow() -> None:
    tokenizer = tiny.tokenizer(chat="{{ strftime_now('%Y-%m-%d %f') }}" + tiny.CHATML)
    assert tokenizer.decode(encode_prompt(tokenizer, user("Hi"))).startswith(f"{TODAY:%Y-%m-%d} 000000")


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_halving_drops_what_dropping_one_by_one_does(system: str | None) -> None:
    tokenizer = tiny.tokenizer()
    prompt = talk(*(f"turn {'x' * (i % 7)} {i}" for i in range(21)), system=system)
    for room in range(1, 420, 13):
        turns = list(prompt)
        ids = _ids(tokenizer, _text(tokenizer, turns))
        while len(ids) > room and (fewer := _without_oldest(turns)):
            turns, ids = fewer, _ids(tokenizer, _text(tokenizer, fewer))
        found = encode_prompt(tokenizer, prompt, room)
        assert found == ids if len(ids) <= room else found[-1:] == ids[-1:]
        assert len(found) <= room


def test_a_long_conversation_is_rendered_a_few_times_only(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny.tokenizer()
    rendered = []
    apply = tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *a, **k: rendered.append(1) or apply(*a, **k))
    encode_prompt(tokenizer, talk(*(f"turn {i}" for i in range(301))), 200)
    assert len(rendered) < 20
