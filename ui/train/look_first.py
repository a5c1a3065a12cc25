"""What stands between a person and PPO on a reward model they have not looked at: two buttons, and nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr

from lorarlhf.ui.judge.looked import LOOK
from lorarlhf.ui.live import leads

Updates = dict[Any, Any]
SCROLL = "() => document.getElementById('look-first')?.scrollIntoView({ block: 'nearest' })"


class LookFirst:
    """The question and its two answers; hidden until it is asked."""

    def __init__(self) -> None:
        with gr.Row(visible=False, equal_height=True, elem_id="look-first") as self.row:
            self.text = gr.HTML(elem_id="look-first-text", scale=1, min_width=240)
            self.look = gr.Button("Look at it", variant="primary", scale=0, min_width=120, elem_id="look-at-reward")
            self.skip = gr.Button("Start without looking", scale=0, min_width=190, elem_id="skip-look")
        self.asked: gr.State = gr.State("")
        """What is to be done if the person does not want to look: `start` or `queue`."""

    @property
    def outputs(self) -> set[Any]:
        """List what asking and answering change."""
        return {self.row, self.text, self.skip, self.asked}

    def ask(self, words: str, do: str) -> Updates:
        """Ask whether the person wants to look first."""
        label = "Queue it without looking" if do == "queue" else "Start without looking"
        text = f"<p role='alert'>{escape(words)}.</p>"
        return {self.row: gr.update(visible=True), self.text: text, self.skip: gr.update(value=label), self.asked: do}

    def settle(self) -> Updates:
        """Put the question away."""
        return {self.row: gr.update(visible=False), self.asked: ""}

    def wire(self, skipped: Callable[..., Updates], inputs: set[Any], **events: Any) -> Any:
        """Connect the buttons; returns what happens after the one that skips."""
        self.look.click(None, js=leads(f"{{ go: 'Judge', section: '{LOOK}' }}"), api_visibility="private")
        return self.skip.click(skipped, {*inputs, self.asked}, **events)
