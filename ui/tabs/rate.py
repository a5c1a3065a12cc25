"""Placeholder while the tab is being written."""

from __future__ import annotations

import gradio as gr
from lorarlhf.ui.desk import Desk


def build(desk: Desk, tab: gr.Tab) -> None:
    """Build the tab."""
    gr.Markdown("rate")
