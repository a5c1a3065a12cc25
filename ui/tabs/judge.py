"""Judge: is what was trained any good? Each question is a section of its own."""

from __future__ import annotations

import gradio as gr

from lorarlhf.ui.desk import Desk
from lorarlhf.ui.tabs import judge_drift, judge_reward


def build(desk: Desk, tab: gr.Tab) -> None:
    """Build the tab."""
    judge_reward.build(desk, tab)
    judge_drift.build(desk, tab)
