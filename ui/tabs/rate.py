"""The Rate tab: one component of our own, so that a key press needs one round trip and no framework in between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from lorarlhf.ui.desk import Desk
from lorarlhf.ui.rate.rating import RatingDesk

ASSETS = Path(__file__).parent.parent / "assets"
SCRIPTS = ("lead.js", "rate_text.js", "rate_keys.js", "rate_talk.js", "rate_ranking.js", "rate_history.js", "rate.js")
"""Joined in this order into one scope."""


def build(desk: Desk, tab: gr.Tab) -> None:
    """Build the tab."""
    rating = RatingDesk(desk)

    def rate_ask(payload: dict[str, Any]) -> dict[str, Any]:
        return rating.ask(payload)

    gr.HTML(
        html_template=_read("rate.html"),
        css_template=_read("rate.css"),
        js_on_load="\n".join(map(_read, SCRIPTS)),
        server_functions=[rate_ask],
        apply_default_css=False,
        elem_id="rate",
    )


def _read(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
