"""Judge: is what was trained any good? Each question is a section of its own."""

from __future__ import annotations

import gradio as gr

from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.looked import LOOK
from lorarlhf.ui.judge.rounds_view import DUEL
from lorarlhf.ui.tabs import judge_drift, judge_duel, judge_reward, judge_rounds
from lorarlhf.ui.words import words_html


def build(desk: Desk, tab: gr.Tab) -> None:
    """Build the tab."""
    with gr.Tabs(elem_id="judge-sections"):
        with gr.Tab(LOOK):
            judge_reward.build(desk, tab)
        judge_drift.build(desk, tab)
        with gr.Tab(DUEL):
            judge_duel.build(desk)
        with gr.Tab("Rounds"):
            judge_rounds.build(desk)
    gr.HTML(words_html(), elem_classes="glossary", apply_default_css=False)
