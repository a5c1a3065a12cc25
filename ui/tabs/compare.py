"""Compare: the same prompt to several adapters side by side, and a chat with any of them."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lorarlhf.errors import LoraRlhfError
from lorarlhf.evaluate.failures import dislike
from lorarlhf.library import BARE
from lorarlhf.settings import SamplingSettings
from lorarlhf.types import Message, user
from lorarlhf.ui.compare.comparing import MOST, AtWork, choices, reply, scorer, side_by_side, usual
from lorarlhf.ui.compare.comparing_html import answers_html, chat_html
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.live import GROWING, QUIET, asset, beating

LOOKS = "compare-panel"
STREAM: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": 4}


def build(desk: Desk, tab: gr.Tab) -> None:
    """Build the tab."""
    at_work = AtWork()
    numbers = _numbers(desk)
    with gr.Tabs(elem_id="compare-sections"):
        with gr.Tab("Side by side"):
            adapters, judge = _side_by_side(desk, at_work, numbers)
        with gr.Tab("Chat"):
            partner = _chat(desk, at_work, numbers)
    with gr.Accordion("Sampling", open=False, elem_id="drawing"), gr.Row():
        for number in numbers:
            number.render()
    _offer(desk, tab, adapters, judge, partner)


def _numbers(desk: Desk) -> list[gr.Number]:
    def now(name: str) -> Any:
        return lambda: getattr(desk.sampling(), name)

    narrow: dict[str, Any] = {"min_width": 100, "render": False}
    return [
        gr.Number(now("temperature"), label="Temperature", minimum=0, step=0.1, elem_id="temperature", **narrow),
        gr.Number(now("max_new_tokens"), label="Max tokens", precision=0, elem_id="max-tokens", **narrow),
        gr.Number(now("seed"), label="Seed", precision=0, elem_id="seed", **narrow),
    ]


def sampling(desk: Desk, temperature: float | None, longest: int | None, seed: int | None) -> SamplingSettings:
    """Make sampling settings out of the three numbers; an emptied one means its default."""
    asked = {"temperature": temperature, "max_new_tokens": longest, "seed": seed}
    return desk.sampling(**{name: value for name, value in asked.items() if value is not None})


def _page(request: gr.Request) -> str:
    return str(request.session_hash)


THUMB = Path(__file__).parent.parent / "assets" / "thumb_down.svg"


def _panel(value: str, name: str) -> gr.HTML:
    return gr.HTML(value, elem_classes=LOOKS, js_on_load=asset("follow.js"), apply_default_css=False, elem_id=name)


# -- side by side ---------------------------------------------------------------------------------------------


def _side_by_side(desk: Desk, at_work: AtWork, numbers: list[gr.Number]) -> tuple[gr.Dropdown, gr.Checkbox]:
    with gr.Row():
        prompt = gr.Textbox(label="Prompt", lines=1, max_lines=8, scale=3, min_width=280, elem_id="compare-prompt")
        adapters = gr.Dropdown(
            [("the base model", BARE)],
            value=[BARE],
            label=f"Models (up to {MOST})",
            multiselect=True,
            max_choices=MOST,
            scale=2,
            min_width=280,
            elem_id="compare-adapters",
            **GROWING,
        )
    with gr.Row(elem_classes="middle"):
        ask = gr.Button("Ask", variant="primary", scale=0, min_width=120, elem_id="ask")
        stop = gr.Button("Stop", scale=0, min_width=80, interactive=False, elem_id="stop-asking")
        judge = gr.Checkbox(label="Score", visible=False, min_width=200, elem_id="judge")
    answers = _panel(answers_html([]), "answers")

    def asked(
        request: gr.Request, text: str, names: list[str], scored: bool, *numbers: Any
    ) -> Iterator[tuple[Any, Any, Any]]:
        idle = gr.update(interactive=True), gr.update(interactive=False)
        if not text.strip() or not names:
            gr.Warning("Write a prompt first." if names else "Choose who is to answer.")
            yield gr.skip(), *idle
            return
        busy = idle[1], idle[0]
        judge = scorer(desk) if scored else ""
        try:
            how = sampling(desk, *numbers)
            for now in side_by_side(desk, at_work, _page(request), user(text.strip()), names, how, judge):
                yield answers_html(now), *busy
        except LoraRlhfError as error:
            gr.Warning(escape(str(error)))
        yield gr.skip(), *idle

    inputs, outputs = [prompt, adapters, judge, *numbers], [answers, ask, stop]
    gr.on([ask.click, prompt.submit], asked, inputs, outputs, trigger_mode="once", **STREAM)
    _stops(stop, at_work)
    return adapters, judge


def _stops(button: gr.Button, at_work: AtWork) -> None:
    def stop(request: gr.Request) -> None:
        at_work.stop(_page(request))

    button.click(stop, **QUIET)


# -- chat -----------------------------------------------------------------------------------------------------


def _chat(desk: Desk, at_work: AtWork, numbers: list[gr.Number]) -> gr.Dropdown:
    partner = gr.Dropdown([("the base model", BARE)], value=BARE, label="Chat with", elem_id="partner", **GROWING)
    turns: gr.State = gr.State([])
    log = _panel(chat_html([]), "chat")
    with gr.Row(elem_classes="bottom"):
        text = gr.Textbox(label="Message", lines=1, max_lines=8, scale=1, min_width=240, elem_id="say")
        send = gr.Button("Send", variant="primary", scale=0, min_width=90, elem_id="send")
        stop = gr.Button("Stop", scale=0, min_width=80, interactive=False, elem_id="stop-chat")
        bad = gr.Button("Bad answer", icon=str(THUMB), scale=0, min_width=165, interactive=False, elem_id="bad-answer")
        clear = gr.Button("Clear", scale=0, min_width=80, elem_id="clear-chat")
    noted = _panel("", "chat-noted")

    def said(
        request: gr.Request, turns: list[Message], text: str, name: str, *numbers: Any
    ) -> Iterator[tuple[Any, ...]]:
        on, off = gr.update(interactive=True), gr.update(interactive=False)
        idle = on, off, on, gr.update(interactive=bool(turns)), gr.skip()
        if not text.strip():
            yield gr.skip(), gr.skip(), gr.skip(), *idle
            return
        busy = off, on, off, off, ""
        asked: list[Message] = [*turns, Message(role="user", content=text.strip())]
        answer = None
        try:
            how = sampling(desk, *numbers)
            for answer in reply(desk, at_work, _page(request), asked, name, how):
                yield turns, chat_html(asked, answer), "", *busy
        except LoraRlhfError as error:
            gr.Warning(escape(str(error)))
        if answer is None or not answer.text:
            # Nothing came: the words go back into the box, and the conversation is as it was.
            if answer and answer.problem:
                gr.Warning(escape(answer.problem))
            yield turns, chat_html(turns), text, *idle
            return
        asked = [*asked, Message(role="assistant", content=answer.text)]
        yield asked, chat_html(asked), "", on, off, on, on, gr.skip()

    def disliked(turns: list[Message], name: str) -> tuple[Any, str]:
        if turns:
            dislike(desk.store, tuple(turns[:-1]), turns[-1]["content"], name)
        words = "Noted. Under Rate, “Weak spots” asks for better answers to this."
        return gr.update(interactive=False), f"<p class='subdued' role='status'>{words}</p>"

    outputs = [turns, log, text, send, stop, clear, bad, noted]
    gr.on([send.click, text.submit], said, [turns, text, partner, *numbers], outputs, trigger_mode="once", **STREAM)
    bad.click(disliked, [turns, partner], [bad, noted], **QUIET)
    gone: tuple[Any, ...] = ([], chat_html([]), gr.update(interactive=False), "")
    clear.click(lambda: gone, None, [turns, log, bad, noted], **QUIET)
    _stops(stop, at_work)
    return partner


# -- who can answer -------------------------------------------------------------------------------------------


def _offer(desk: Desk, tab: gr.Tab, adapters: gr.Dropdown, judge: gr.Checkbox, partner: gr.Dropdown) -> None:
    """Keep the choices true: adapters come and go, and the base is often still loading when the page opens."""
    known = gr.State("")

    def stamp() -> str:
        return f"{choices(desk)}{scorer(desk)}{desk.fingerprint}"

    def offer(seen: str, chosen: list[str], talking: str) -> list[Any]:
        there, reward, now = choices(desk), scorer(desk), stamp()
        if now == seen:
            return [gr.skip()] * 4
        names = [name for _, name in there]
        kept = [name for name in chosen if name in names]
        if not kept or kept == [BARE]:
            kept = usual(desk)
        return [
            now,
            gr.update(choices=there, value=kept),
            gr.update(label=f"Score the answers with {reward}", visible=bool(reward)),
            gr.update(choices=there, value=talking if talking in names and seen else usual(desk)[-1]),
        ]

    inputs, outputs = [known, adapters, partner], [known, adapters, judge, partner]
    beat = beating(LOOKS, stamp=stamp)
    gr.on([tab.select, beat.tick], offer, inputs, outputs, trigger_mode="always_last", **QUIET)
