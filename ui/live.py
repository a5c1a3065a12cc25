"""Pieces several tabs are made of: a panel that keeps itself up to date, and a link to a file of the exports."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import gradio as gr

from lorarlhf.errors import LoraRlhfError

T = TypeVar("T")

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
"""Of events that are quick and have nothing to say; toasts only come from events that queue."""
UNSEEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Of events that may take a while or warn."""


GROWING: dict[str, Any] = {"allow_custom_value": True}
"""Of drop-downs whose choices come and go: Gradio refuses a choice that its own copy of the list learns of too late."""


def warned(act: Callable[[], T]) -> T | None:
    """Do something and return what it gives; where it is refused, warn in one line and return None."""
    try:
        return act()
    except LoraRlhfError as error:
        gr.Warning(escape(str(error)))
        return None


def asset(name: str) -> str:
    """Read a script of the app."""
    return (Path(__file__).parent / "assets" / name).read_text(encoding="utf-8")


def leads(where: str) -> str:
    """Write the script of a button that leads to a tab; `where` is JavaScript for an object of `go` and `section`."""
    return f"() => {{ {asset('lead.js')} lead({where}); }}"


def live(draw: Callable[[], str], looks: str, **options: Any) -> gr.HTML:
    """Make a panel that draws itself anew, while somebody can see it, whenever it would look different.

    Buttons in it with a `data-name` raise the event `pick`, and `chosen` is the name of the one marked as chosen; with
    `data-go`, and `data-section`, they lead to a tab, and to a section of it.
    `opens` may name the element that a choice shows, which is then scrolled to.
    `looks` is a class of the style sheets. `draw` must escape whatever people or models wrote.
    """

    def look(payload: dict[str, Any]) -> dict[str, str] | None:
        now = draw()
        return None if payload.get("seen") == now else {"seen": now, "html": now}

    return gr.HTML(
        draw,
        js_on_load=asset("lead.js") + asset("live.js"),
        server_functions=[look],
        elem_classes=looks,
        apply_default_css=False,
        chosen="",
        **options,
    )


def remembered(key: Callable[[], Any], draw: Callable[[], str]) -> Callable[[], str]:
    """Draw anew only where the key has changed: drawing reads every row."""
    last: list[Any] = [None, ""]

    def drawn() -> str:
        if (now := key()) != last[0]:
            last[:] = [now, draw()]
        return str(last[1])

    return drawn


def listing(looks: str, **options: Any) -> gr.HTML:
    """Make a panel of things to choose from, as `live` does, that only events change."""
    script = asset("lead.js") + asset("live.js")
    return gr.HTML(elem_classes=looks, js_on_load=script, apply_default_css=False, chosen="", **options)


def plain(looks: str, **options: Any) -> gr.HTML:
    """Make a panel whose HTML only events change."""
    return gr.HTML(elem_classes=looks, js_on_load=None, apply_default_css=False, **options)


def leading(looks: str, **options: Any) -> gr.HTML:
    """Make a panel as `plain` does, whose buttons with `data-go` lead to a tab."""
    script = asset("lead.js") + asset("leading.js")
    return gr.HTML(elem_classes=looks, js_on_load=script, apply_default_css=False, **options)


def beating(looks: str, seconds: float = 1.0, stamp: Callable[[], str] | None = None, **options: Any) -> gr.HTML:
    """Make a panel as `plain` does, which raises the event `tick` again and again while it can be seen.

    With a `stamp` it ticks as it comes into sight, and then only when the stamp is another one; what listens should
    have the trigger mode `always_last`, so that no change is missed while it looks.

    A `gr.Timer` ticks in tabs that nobody looks at too, and each tick has the browser go through every part of every
    tab that was ever opened: an idle page then keeps most of a core busy, which a base on the processor wants.
    """
    beat = asset("beat.js").replace("SECONDS", str(seconds))
    told: list[Callable[..., Any]] = []
    if stamp:

        def tell(_: dict[str, Any]) -> str:
            return stamp()

        tell.__name__ = "stamp"
        told.append(tell)
    return gr.HTML(elem_classes=looks, js_on_load=beat, server_functions=told, apply_default_css=False, **options)


def link_html(path: Path) -> str:
    """Write the link that downloads a file of the workspace's exports."""
    name, address = escape(path.name, quote=True), "gradio_api/file=" + quote(path.as_posix())
    return (
        f"<p role='status'><a class='download' download='{name}' href='{address}'>Download {name}</a> "
        f"<span class='subdued'>also at {escape(str(path))}</span></p>"
    )
