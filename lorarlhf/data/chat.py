"""Turn conversations into token ids and answers back into text. Knows nothing of torch.

Where the tokenizer has a chat template, it decides. Where it has none, this plain format does; `<bos>` and `<eos>`
are the tokenizer's own, `<bos>` only where it adds one itself:

    <bos>System text (only if there is a system turn)

    User: question
    Assistant: answer<eos>
    User: next question
    Assistant:

An answer in the plain format begins with a blank and ends at `<eos>` or at a line that begins with "User:".
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Any, Literal

from lorarlhf.errors import DataError
from lorarlhf.types import Message, Prompt

PROBE = "lorarlhf-probe"
ROLES = ("system", "user", "assistant")
PLAIN_STOPS = ("\nUser:",)
RESERVED = (
    "<|finetune_right_pad_id|>",
    "<|pad|>",
    "<pad>",
    "[PAD]",
    "<|padding|>",
    "<|vision_pad|>",
    "<|reserved_special_token_0|>",
    "<|endoftext|>",
    "<unk>",
    "[UNK]",
)
"""Tokens that can stand for padding without meaning anything, best first."""
TODAY = date(2026, 1, 1)
"""The day for templates that write one: scores that are kept, and runs that go on, must read the same text tomorrow."""
_NOW = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_MASK = re.compile("\ue000([0-9a-f]+)\ue001")


def encode_prompt(tokenizer: Any, prompt: Prompt, max_tokens: int | None = None) -> list[int]:
    """Turn a conversation into the ids after which the answer begins.

    If they are more than `max_tokens`, the oldest exchanges are dropped first (a system turn stays), then tokens
    from the left: the end is always kept, and BOS. Raise `DataError` if the template refuses the conversation.
    """
    turns = _checked(prompt)
    ids = _ids(tokenizer, _text(tokenizer, turns))
    if max_tokens is not None and len(ids) > max_tokens:
        ids = _shortened(tokenizer, turns, max_tokens, ids)
    if max_tokens is None or len(ids) <= max_tokens:
        return ids
    head = ids[:1] if ids[0] == tokenizer.bos_token_id and max_tokens > 1 else []
    return head + ids[len(ids) - max_tokens + len(head) :]


def _shortened(tokenizer: Any, turns: list[Message], max_tokens: int, ids: list[int]) -> list[int]:
    """Drop as few of the oldest exchanges as make the conversation fit, or all but the last."""
    shorter = [turns]
    while (fewer := _without_oldest(shorter[-1])) is not None:
        shorter.append(fewer)
    found = {0: ids}

    def fits(dropped: int) -> bool:
        found[dropped] = _ids(tokenizer, _text(tokenizer, shorter[dropped]))
        return len(found[dropped]) <= max_tokens

    # Every exchange that goes makes it shorter: halving asks the template a few times, not once for each.
    dropped = bisect_left(range(1, len(shorter)), True, key=fits) + 1
    dropped = min(dropped, len(shorter) - 1)
    if dropped not in found:
        fits(dropped)
    return found[dropped]


def encode_response(tokenizer: Any, response: str, eos_id: int, end: bool = True) -> list[int]:
    """Turn an answer into the ids that follow the prompt's; `end` says that it ended by itself, with `eos_id`.

    Prompt and answer together are what the template gives for the whole conversation: the answer is rendered and
    tokenised behind a short question, which is then taken off again. Blanks around an answer go where the template
    takes them off. One end mark at the end of the text, as other programs leave it there, is taken off too.
    """
    response = without_end_mark(tokenizer, response, eos_id)
    question = [_turn("user", "?")]
    before = _text(tokenizer, question)
    whole = _text(tokenizer, [*question, _turn("assistant", response)], answer=False)
    if not whole.startswith(before):
        whole = before + response
    ids, skip = _ids(tokenizer, whole), _ids(tokenizer, before)
    if ids[: len(skip)] == skip:
        ids = ids[len(skip) :]
    else:  # the first letters of the answer merge with the end of the prompt
        ids = tokenizer(whole[len(before) :], add_special_tokens=False)["input_ids"]
    if eos_id in ids:
        # The template may write more behind the end mark, such as a line break.
        ids = ids[: len(ids) - 1 - ids[::-1].index(eos_id)]
    return [*ids, eos_id] if end else list(ids)


def without_end_mark(tokenizer: Any, response: str, eos_id: int) -> str:
    """Take the end mark off a text that ends with it."""
    text = response.rstrip()
    marks = {tokenizer.convert_ids_to_tokens(eos_id), tokenizer.eos_token}
    mark = next((mark for mark in marks if mark and text.endswith(mark)), None)
    return text.removesuffix(mark) if mark else response


def check_template(tokenizer: Any) -> None:
    """Raise `DataError` where the chat template leaves out what a user or an assistant says."""
    if tokenizer.chat_template and not _keeps_all(tokenizer, parts=wants_parts(tokenizer)):
        raise DataError("its chat template leaves out what is said; give the base another chat template")


@lru_cache(maxsize=16)
def _wants_parts(tokenizer: Any, template: str) -> bool:
    return not _keeps_all(tokenizer, parts=False) and _keeps_all(tokenizer, parts=True)


def wants_parts(tokenizer: Any) -> bool:
    """Tell whether the template takes a content as a list of parts, and leaves plain texts out."""
    return bool(tokenizer.chat_template) and _wants_parts(tokenizer, str(tokenizer.chat_template))


def _keeps_all(tokenizer: Any, *, parts: bool) -> bool:
    turns = [_turn("user", PROBE + "-1"), _turn("assistant", PROBE + "-2")]
    try:
        text = _apply(tokenizer, turns, answer=False, parts=parts)
    except DataError:
        return False
    return all(turn["content"] in text for turn in turns)


def end_of_turn_id(tokenizer: Any) -> int | None:
    """Find the token the chat template writes after an assistant's turn; EOS where it writes none."""
    eos: int | None = tokenizer.eos_token_id
    if not tokenizer.chat_template:
        return eos
    text = _text(tokenizer, [_turn("user", "?"), _turn("assistant", PROBE)], answer=False)
    tail = tokenizer(text.partition(PROBE)[2], add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return next((i for i in tail if i in special), eos)


def stop_texts(tokenizer: Any, stop: Sequence[str] = ()) -> tuple[str, ...]:
    """Name the texts that end an answer besides its end mark: the person's, and the plain format's next turn."""
    return tuple(dict.fromkeys([*stop, *(() if tokenizer.chat_template else PLAIN_STOPS)]))


def clean(response: str, stops: Sequence[str] = ()) -> str:
    """Cut an answer at the first stop text and strip the blanks around it."""
    places = [place for stop in stops if stop and (place := response.find(stop)) >= 0]
    return response[: min(places, default=len(response))].strip()


def ensure_pad(tokenizer: Any, rows: int) -> str:
    """Make sure of a pad token within the embedding's `rows`, other than EOS wherever possible; say how.

    The embedding is frozen and never resized. If only EOS is left, it serves: masks, not token ids, decide what
    counts, everywhere.
    """
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    if pad is not None and pad != eos and pad < rows:
        return "the tokenizer's own"
    vocabulary = tokenizer.get_vocab()
    end = end_of_turn_id(tokenizer)
    for token in (*RESERVED, tokenizer.unk_token, tokenizer.bos_token):
        index = vocabulary.get(token) if token else None
        if index is not None and index not in (eos, end) and index < rows:
            tokenizer.pad_token = token
            return f"the tokenizer has none besides EOS; {token} is free for it"
    if eos is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        return "the tokenizer has neither pad nor EOS; token 0 serves, hidden by masks"
    tokenizer.pad_token = tokenizer.eos_token
    return "the tokenizer has none; EOS serves, hidden by masks"


def _turn(role: Literal["system", "user", "assistant"], content: str) -> Message:
    return Message(role=role, content=content)


def _checked(prompt: Prompt) -> list[Message]:
    turns = list(prompt)
    if not turns:
        raise DataError("empty prompt: a conversation needs at least one turn")
    strange = next((turn["role"] for turn in turns if turn["role"] not in ROLES), None)
    if strange is not None:
        raise DataError(f"unknown role {strange!r} in a prompt; known: {', '.join(ROLES)}")
    if turns[-1]["role"] != "user":
        raise DataError(f"the prompt ends with the {turns[-1]['role']}'s turn; end it with the user's, to be answered")
    return turns


def _without_oldest(turns: list[Message]) -> list[Message] | None:
    """Drop the oldest exchange, up to the next user turn; None where only the last one is left."""
    head = turns[:1] if turns[0]["role"] == "system" else []
    rest = turns[len(head) :]
    later = next((i for i, turn in enumerate(rest) if i > 0 and turn["role"] == "user"), None)
    return None if later is None else head + rest[later:]


@lru_cache(maxsize=16)
def _control_texts(tokenizer: Any) -> list[str]:
    """List the texts of control tokens, longest first."""
    added = [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*tokenizer.all_special_tokens, *added} - {""}, key=len, reverse=True)


def has_marks(tokenizer: Any, text: str) -> bool:
    """Tell whether a text holds what looks like a control token."""
    return any(mark in text for mark in _control_texts(tokenizer))


def is_dated(tokenizer: Any) -> bool:
    """Tell whether the template writes today's date, for which `TODAY` stands here."""
    return _dated(tokenizer) is not None


def _masked(tokenizer: Any, turns: list[Message]) -> list[Message]:
    """Put numbers for control tokens that people wrote, so that they are told from those of the template."""
    controls = _control_texts(tokenizer)
    if not any(text in turn["content"] for turn in turns for text in controls):
        return turns
    masked = []
    for turn in turns:
        content = turn["content"]
        for number, text in enumerate(controls):
            content = content.replace(text, f"\ue000{number:x}\ue001")
        masked.append(_turn(turn["role"], content))
    return masked


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = []
    for place, part in enumerate(_MASK.split(text)):
        if place % 2:  # what a person wrote is text, whatever it looks like
            written = _control_texts(tokenizer)[int(part, 16)]
            ids += tokenizer(written, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        elif part or not text:
            ids += tokenizer(part, add_special_tokens=False)["input_ids"]
    # A template writes BOS itself where the model wants one: adding special tokens would double it.
    adds_bos = not tokenizer.chat_template and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return [tokenizer.bos_token_id, *ids] if adds_bos else ids


def rendered(tokenizer: Any, turns: list[Message], answer: bool) -> str:
    """Write a conversation as the base reads it, up to where the next answer begins if `answer`."""
    return _text(tokenizer, turns, answer)


def _text(tokenizer: Any, turns: list[Message], answer: bool = True) -> str:
    """Write the conversation as the model reads it, up to where the next answer begins if `answer`."""
    turns = _masked(tokenizer, turns)
    if not tokenizer.chat_template:
        return _plain(tokenizer, turns, answer)
    system = [turn["content"].strip() for turn in turns if turn["role"] == "system"]
    if not system:
        return _render(tokenizer, turns, answer)
    try:
        text = _render(tokenizer, turns, answer)
        if all(content in text for content in system):
            return text
    except DataError:
        pass  # the template may only dislike the system turn: try without one
    return _render(tokenizer, _merge_system(turns), answer)


def _merge_system(turns: list[Message]) -> list[Message]:
    """Move what the system turns say to the beginning of the first user turn."""
    system = "\n\n".join(turn["content"] for turn in turns if turn["role"] == "system")
    rest = [turn for turn in turns if turn["role"] != "system"]
    first = next((i for i, turn in enumerate(rest) if turn["role"] == "user"), 0)
    return [*rest[:first], _turn("user", f"{system}\n\n{rest[first]['content']}"), *rest[first + 1 :]]


def _render(tokenizer: Any, turns: list[Message], answer: bool) -> str:
    return _apply(tokenizer, turns, answer, parts=wants_parts(tokenizer))


def _dated(tokenizer: Any) -> str | None:
    """Return the template with a fixed day in place of today's; None where it asks for none."""
    template = tokenizer.chat_template
    if not isinstance(template, str) or "strftime_now" not in template:
        return None
    return _NOW.sub(lambda call: repr(TODAY.strftime(call[2])), template)


def _apply(tokenizer: Any, turns: list[Message], answer: bool, *, parts: bool) -> str:
    from jinja2.exceptions import TemplateError

    said: list[Any] = turns
    if parts:
        said = [{"role": turn["role"], "content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    try:
        # Bases that can think aloud first are asked not to: a person rates the answer, and thoughts use up its length.
        return str(
            tokenizer.apply_chat_template(
                said,
                chat_template=_dated(tokenizer),
                tokenize=False,
                add_generation_prompt=answer,
                enable_thinking=False,
            )
        )
    except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        roles = ", ".join(turn["role"] for turn in turns)
        raise DataError(f"the base's chat template refuses a conversation of {roles}: {reason}") from None


def _plain(tokenizer: Any, turns: list[Message], answer: bool) -> str:
    end = tokenizer.eos_token or ""
    lines = []
    for turn in turns:
        if turn["role"] == "system":
            lines.append(f"{turn['content']}\n\n")
        elif turn["role"] == "user":
            lines.append(f"User: {turn['content']}\n")
        else:
            lines.append(f"Assistant: {turn['content'].strip()}{end}\n")
    return "".join(lines) + ("Assistant:" if answer else "")
