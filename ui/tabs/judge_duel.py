"""Judge, blind comparison: one component of our own, as the Rate tab is, with that tab's keys and looks."""

from __future__ import annotations

from typing import Any

import gradio as gr

from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.duel_desk import DuelDesk
from lorarlhf.ui.live import asset

SCRIPTS = ("lead.js", "rate_text.js", "rate_keys.js", "rate_talk.js", "duel.js")
"""Joined in this order into one scope."""
STYLES = ("rate.css", "duel.css")


def build(desk: Desk) -> None:
    """Build the section."""
    duels = DuelDesk(desk)

    def duel_ask(payload: dict[str, Any]) -> dict[str, Any]:
        return duels.ask(payload)

    gr.HTML(
        html_template=asset("duel.html"),
        css_template="\n".join(map(asset, STYLES)),
        js_on_load="\n".join(map(asset, SCRIPTS)),
        server_functions=[duel_ask],
        apply_default_css=False,
        elem_id="duel",
    )
