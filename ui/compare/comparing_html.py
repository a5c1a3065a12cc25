"""Answers and chats as HTML: what is whole as Markdown that was made safe, what still grows as text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from lorarlhf.figures import figure
from lorarlhf.library import BARE
from lorarlhf.types import Message
from lorarlhf.ui.compare.comparing import Answer
from lorarlhf.ui.markdown import rendered

STATE_WORDS = {"waiting": "waits for the engine", "writing": "writing …", "stopped": "stopped", "failed": "failed"}
EMPTY = "<p class='subdued'>Ask something; the answers appear here side by side.</p>"
EMPTY_CHAT = "<div class='log'><p class='subdued'>Say something to begin.</p></div>"


def title(adapter: str) -> str:
    """Name who answers."""
    return "the base model" if adapter in ("", BARE) else adapter


def answers_html(answers: Sequence[Answer]) -> str:
    """Write answers side by side."""
    return f"<div class='panels'>{''.join(map(_panel, answers))}</div>" if answers else EMPTY


def _panel(answer: Answer) -> str:
    state = STATE_WORDS.get(answer.state, "")
    score = "" if answer.score is None else f"<b class='score'>score {figure(answer.score, '+.2f')}</b>"
    problem = f"<p class='bad'>{escape(answer.problem)}</p>" if answer.problem else ""
    empty = "<span class='subdued'>(an empty answer)</span>" if answer.state == "done" and not answer.text else ""
    name = escape(title(answer.adapter))
    text = f"<div class='md'>{rendered(answer.text)}</div>" if answer.state == "done" else escape(answer.text)
    return (
        f"<section class='panel' aria-label='Answer of {escape(name, quote=True)}'>"
        f"<header><h4>{name}</h4><span class='subdued'>{state}</span>{score}</header>"
        f"<div class='words follow' dir='auto' tabindex='0'>{text}{empty}</div>{problem}</section>"
    )


def chat_html(turns: Sequence[Message], growing: Answer | None = None) -> str:
    """Write a conversation, with the answer that is being written."""
    shown = [_turn(turn["role"], f"<div class='md'>{rendered(turn['content'])}</div>") for turn in turns]
    if growing is not None and growing.state != "done":
        state = STATE_WORDS.get(growing.state, "")
        shown.append(_turn("assistant", f"{escape(growing.text)} <span class='subdued'>{state}</span>"))
        if growing.problem:
            shown.append(f"<p class='bad'>{escape(growing.problem)}</p>")
    if not shown:
        return EMPTY_CHAT
    return f"<div class='log follow' role='log' aria-label='Conversation' tabindex='0'>{''.join(shown)}</div>"


def _turn(role: str, inside: str) -> str:
    who = {"user": "You", "assistant": "Answer"}.get(role, role)
    return f"<div class='turn {escape(role)}'><b>{escape(who)}</b><div class='words' dir='auto'>{inside}</div></div>"
