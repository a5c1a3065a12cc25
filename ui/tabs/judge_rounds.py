"""Judge, rounds: one panel that keeps itself up to date; its buttons lead on, measure, or go back to a round."""

from __future__ import annotations

import gradio as gr

from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.rounds_html import KEEP, LOADING, MEASURE, STEP, rounds_html
from lorarlhf.ui.judge.rounds_view import GO, RoundsView
from lorarlhf.ui.live import UNSEEN, live, warned


def build(desk: Desk) -> None:
    """Build the section."""
    view = RoundsView(desk)

    def draw() -> str:
        if not desk.fingerprint:
            return LOADING
        return rounds_html(view.rounds(), view.step(), view.measurement.now(), view.lineage())

    def pick(event: gr.EventData) -> None:
        name = str(event.name)
        if name == STEP:
            warned(view.take_step)
        elif name == MEASURE:
            warned(view.measure)
        elif name.startswith(GO):
            warned(lambda: view.go_to(name.removeprefix(GO)))
        elif name.startswith(KEEP):
            warned(lambda: view.keep(name.removeprefix(KEEP)))

    live(draw, "judge-panel", elem_id="rounds").pick(pick, **UNSEEN)
