"""How a request reaches what meets it, for every page on which people vote. Knows nothing of Gradio."""

from __future__ import annotations

from typing import Any, Protocol

from lorarlhf.errors import DataError, LoraRlhfError
from lorarlhf.ui.rate.pairs import Tray

Payload = dict[str, Any]


class Asked(Protocol):
    """What a page can ask: it has a method `do_NAME` for each name."""

    tray: Tray

    def view(self) -> dict[str, Any]:
        """Describe what lies in front of the person."""


def reply_to(payload: Payload, asked: Asked) -> dict[str, Any]:
    """Do what a page asks for, and reply with what it shows next; a refusal is said in one line."""
    try:
        with asked.tray.lock:
            action = getattr(asked, f"do_{payload.get('do')}", None)
            if action is None:
                raise DataError(f"the page asks for {payload.get('do')!r}, which this app does not know; reload it")
            return action(payload)
    except LoraRlhfError as error:
        return {**asked.view(), "said": str(error), "wrong": True}
