"""The page: a line about the engine on top, and a tab for each thing a person does."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from lorarlhf.ui.desk import Desk, Notice
from lorarlhf.ui.journey import journey, journey_html
from lorarlhf.ui.live import QUIET, asset, beating, live, remembered
from lorarlhf.ui.tabs import compare, data, judge, models, rate, train
from lorarlhf.ui.train.advice import count

ASSETS = Path(__file__).parent / "assets"
ICON = (ASSETS / "mark.svg").read_text(encoding="utf-8").strip()

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif"]
CODE_FONT = ["ui-monospace", "SFMono-Regular", "Consolas", "DejaVu Sans Mono", "monospace"]

# System fonts: the app works, and looks the same, without a network.
THEME = gr.themes.Soft(primary_hue="teal", neutral_hue="slate", font=FONT, font_mono=CODE_FONT).set(
    background_fill_primary="*neutral_50",  # Soft's own, which `set` forgets
    # Gradio's other choices fall short of the contrast that WCAG AA asks for: 4.5 : 1 of text, 3 : 1 of fields.
    body_text_color_subdued="*neutral_600",
    block_label_text_color="*primary_700",
    block_label_background_fill_dark="*primary_700",
    block_title_text_color="*neutral_700",
    block_title_text_color_dark="*neutral_200",
    block_title_background_fill="none",
    block_title_padding="0",
    input_placeholder_color="*neutral_500",
    input_placeholder_color_dark="*neutral_400",
    input_border_width="1px",
    input_border_color="*neutral_500",
    input_border_color_dark="*neutral_500",
    checkbox_border_color="*neutral_500",
    checkbox_border_color_dark="*neutral_400",
    checkbox_label_background_fill_selected="*primary_700",
    checkbox_label_background_fill_selected_dark="*primary_700",
    checkbox_label_text_color_selected="white",
    checkbox_label_text_color_selected_dark="white",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
)

LOOKS: dict[str, Any] = {
    "theme": THEME,
    "css_paths": sorted(ASSETS.glob("*.css")),
    "head": '<meta name="viewport" content="width=device-width, initial-scale=1">',
    "favicon_path": ASSETS / "icon.png",
}

TABS = (
    ("Rate", rate),
    ("Train", train),
    ("Judge", judge),
    ("Compare", compare),
    ("Data", data),
    ("Models", models),
)


def build(desk: Desk) -> gr.Blocks:
    """Put the page together."""
    with gr.Blocks(title="lorarlhf", analytics_enabled=False, fill_width=True) as page:
        _header(desk)
        gr.HTML(BOTTOM, js_on_load=asset("lead.js") + asset("bottom.js"), apply_default_css=False, elem_id="bottom")
        names = [name.lower().split()[0] for name, _ in TABS]
        with gr.Tabs(elem_id="tabs") as tabs:
            for id, (name, tab) in zip(names, TABS, strict=True):
                with gr.Tab(name, id=id) as shown:
                    tab.build(desk, shown)
                # The address keeps the tab, so that a reload comes back to it.
                shown.select(None, js=SHOWN.format(id), api_visibility="private")
        there = gr.Textbox(visible=False)
        page.load(
            lambda id: gr.Tabs(selected=id) if id in names else gr.skip(),
            there,
            tabs,
            js="() => location.hash.slice(1)",
            **QUIET,
        )
    return page


# -- the header -----------------------------------------------------------------------------------------------


def _header(desk: Desk) -> None:
    """One line that always says what the engine is at, and what happened to it."""
    with gr.Row(elem_id="header", equal_height=True):
        gr.HTML(BRAND, js_on_load=asset("theme.js"), apply_default_css=False, elem_id="brand", min_width=90)
        live(remembered(lambda: _way_stamp(desk), lambda: _way_html(desk)), "way", elem_id="journey")
        line = beating("", stamp=lambda: _standing(desk), value=lambda: status_html(desk), elem_id="status", scale=1)
        cancel = gr.Button("Cancel loading", visible=False, size="sm", min_width=120, scale=0, elem_id="cancel-loading")
        revive = gr.Button("Start the engine", visible=False, size="sm", min_width=120, scale=0, elem_id="revive")
        stop = gr.Button("Stop", visible=False, size="sm", min_width=64, scale=0, elem_id="stop-run")
    with gr.Row(visible=False, elem_id="notice") as row:
        text = gr.HTML(elem_id="notice-text", scale=1)
        resume = gr.Button("Resume the run", visible=False, size="sm", min_width=120, scale=0, variant="primary")
        dismiss = gr.Button("Dismiss", size="sm", min_width=90, scale=0)

    def look() -> Any:
        """Say how things stand."""
        status, notice = desk.status(), desk.notices[-1] if desk.notices else None
        return [
            status_html(desk),
            gr.update(visible=status.state == "loading"),
            gr.update(visible=status.state == "down"),
            gr.update(visible=desk.run_job is not None and not desk.run_job.done and not desk.stopping),
            gr.update(visible=notice is not None),
            notice_html(notice) if notice else "",
            gr.update(visible=bool(notice and notice.run)),
        ]

    say: dict[str, Any] = {"fn": look, "outputs": [line, cancel, revive, stop, row, text, resume], **QUIET}
    line.tick(trigger_mode="always_last", **say)
    cancel.click(lambda: desk.cancel_loading(), **QUIET)
    revive.click(lambda: desk.revive(), **QUIET)
    stop.click(lambda: desk.stop_run(), **QUIET).then(**say)

    def forget(*, go_on: bool) -> None:
        # Another page may have dismissed it a moment ago.
        notice = desk.notices.pop() if desk.notices else None
        if notice and go_on:
            desk.try_resume(notice.run)

    dismiss.click(lambda: forget(go_on=False), **QUIET).then(**say)
    resume.click(lambda: forget(go_on=True), **QUIET).then(**say)


SHOWN = "() => {{ history.replaceState(null, '', '#{0}'); document.body.dataset.tab = '{0}'; }}"
"""The script that keeps which tab is shown: in the address, and for the bar at the bottom of a phone."""
FEW = 3
"""Tabs that stand in that bar; the others come up from *More*."""


def _bar(names: list[str]) -> str:
    return "".join(f"<button type='button' data-go='{name}'>{name}</button>" for name in names)


BOTTOM = (
    f"<nav class='bottom-bar' aria-label='Tabs'>{_bar([name for name, _ in TABS[:FEW]])}"
    "<button type='button' class='more' aria-expanded='false'>More</button>"
    f"<div class='rest' hidden>{_bar([name for name, _ in TABS[FEW:]])}</div></nav>"
)
BRAND = (
    f"<a class='brand' href='#rate'><span>{ICON}</span>lorarlhf</a>"
    "<button type='button' class='theme' title='Light or dark' aria-label='Switch between light and dark'>"
    "<svg viewBox='0 0 24 24' width='18' height='18' aria-hidden='true'><path fill='currentColor' "
    "d='M12 3a9 9 0 1 0 9 9A7 7 0 0 1 12 3z'/></svg></button>"
)


def _way_stamp(desk: Desk) -> Any:
    """Name what the journey depends on."""
    adapters, exports = desk.workspace.adapters_dir.stat().st_mtime_ns, desk.workspace.exports_dir.stat().st_mtime_ns
    return desk.store.changes(), desk.fingerprint, adapters, exports


def _way_html(desk: Desk) -> str:
    """Write the five stops of a person's way."""
    if not desk.fingerprint:
        return ""
    exports = [path.name for path in desk.workspace.exports_dir.iterdir()]
    reward, policy = desk.newest("reward"), desk.newest("ppo")
    return journey_html(journey(count(desk.store)["votes"], reward, policy, desk.store.duel_votes(), exports))


def _standing(desk: Desk) -> str:
    """Write what the header depends on."""
    notice = desk.notices[-1] if desk.notices else None
    return f"{desk.status()}{desk.stopping}{notice}{desk.load_settings}{len(desk.notices)}{desk.memory.get('device')}"


def status_html(desk: Desk) -> str:
    """Write the line about the engine."""
    status, load = desk.status(), desk.load_settings
    base = html.escape(Path(load.base).name or load.base)
    where = f"{base} · {load.bits} bit"
    if device := desk.memory.get("device"):
        where += f" on {html.escape(str(device))}"
    bar = f"<progress max='1' value='{status.share:.3f}'></progress>" if status.share is not None else ""
    model = f"<button type='button' class='model' data-go='Models' title='Another model'>{where}</button>"
    return (
        f"<div class='engine {status.state}'><span class='dot' aria-hidden='true'></span>"
        f"{model}<span class='what'>{html.escape(status.text)}</span>{bar}</div>"
    )


def notice_html(notice: Notice) -> str:
    """Write what happened; bad news as an alert."""
    kind, role = ("good", "status") if notice.good else ("bad", "alert")
    return f"<p class='{kind}' role='{role}'>{html.escape(notice.text)}</p>"
