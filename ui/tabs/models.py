"""Models: which base is in memory, what it takes there, and the adapters that were made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import gradio as gr

from lorarlhf.errors import LoraRlhfError
from lorarlhf.export import FORMATS
from lorarlhf.library import list_saved
from lorarlhf.preset import load_preset, preset_files
from lorarlhf.settings import LoadSettings
from lorarlhf.ui.desk import STARTER, Desk
from lorarlhf.ui.live import QUIET, UNSEEN, asset, link_html, listing, live, plain, warned
from lorarlhf.ui.models import shelf
from lorarlhf.ui.models.candidates import check, choose_bits, found, machine_of
from lorarlhf.ui.models.candidates_html import check_html, found_html
from lorarlhf.ui.models.memory import memory_html
from lorarlhf.ui.models.shelf_html import card_html, exported_html, table_html, taken_in_html
from lorarlhf.ui.rate.preferences import load_preferences, save_preferences

LOOKS = "models-panel"
IMPORT_AS = [("policy", "policy"), ("SFT", "sft"), ("reward model", "reward")]
"""What an adapter made elsewhere is taken in as."""
KNOBS = ("base", "bits", "device", "compute", "revision", "trust_remote_code")
NO_PRESET, AUTO = "none", "auto"
ASKED = [
    ("what suits", ""),
    ("Starter set", STARTER),
    ("200 everyday ones", "everyday"),
    ("my file (import it under Data)", "queue"),
    ("I'll type", "typed"),
]
"""What may be asked of a model, as on the Rate tab."""
REMOTE_CODE = (
    "**Careful:** this runs Python code from whoever published the base, with all of your rights on this computer. "
    "Turn it on only if you trust them."
)


def build(desk: Desk, tab: gr.Tab) -> None:
    """Build the tab."""
    with gr.Row():
        with gr.Column(scale=5, min_width=320):
            _base_form(desk, tab)
        with gr.Column(scale=3, min_width=320):
            live(lambda: memory_html(desk), LOOKS, elem_id="memory")
    _adapters(desk)


# -- the base -------------------------------------------------------------------------------------------------


def _base_form(desk: Desk, tab: gr.Tab) -> None:
    """Build the sheet that begins a project: which model, how precise, what to ask it."""

    def about(name: str) -> dict[str, Any]:
        return {"info": str(LoadSettings.model_fields[name].description), "elem_id": f"load-{name}"}

    def now(name: str) -> Callable[[], Any]:
        return lambda: getattr(desk.load_settings, name)

    plain(LOOKS, value="<h3>New project: which model?</h3>")
    models = listing(LOOKS, value=lambda: _found(desk), elem_id="found")
    base = gr.Dropdown(
        known_bases(desk),
        value=now("base"),
        label="Model",
        info="Hugging Face id or folder; type it, or choose one above",
        allow_custom_value=True,
        elem_id="load-base",
    )
    with gr.Row():
        bits = gr.Radio([("auto", AUTO), 4, 8, 16], value=AUTO, label="Precision (bits)", scale=2, elem_id="load-bits")
        ask = gr.Radio(ASKED, value="", label="Questions", scale=3, elem_id="load-asked")
    told = plain(LOOKS, elem_id="load-check")
    with gr.Accordion("Advanced", open=False):
        with gr.Row():
            preset = gr.Dropdown(
                [AUTO, NO_PRESET, *preset_files()], value=AUTO, label="Settings for", info="Measured ones"
            )
            device = gr.Dropdown(_choices("device"), value=now("device"), label="Device", **about("device"))
            compute = gr.Dropdown(_choices("compute"), value=now("compute"), label="Compute in", **about("compute"))
        revision = gr.Textbox(value=now("revision"), label="Revision", max_lines=1, **about("revision"))
        remote = gr.Checkbox(value=now("trust_remote_code"), label="Trust remote code", elem_id="load-remote")
        warning = gr.Markdown(REMOTE_CODE, visible=False, elem_id="remote-warning")
    load = gr.Button("Load", variant="primary", elem_id="load-button")
    with gr.Row(visible=False, elem_id="sure-load") as sure:
        gr.Markdown("A run is training. It is saved first; you can resume it later on its own base.")
        yes, no = gr.Button("Save it and load", variant="stop", size="sm"), gr.Button("Keep the base", size="sm")
    form = [base, bits, device, compute, revision, remote]

    def start(*values: Any, sure: bool = False) -> dict[str, Any]:
        if desk.run_job and not desk.run_job.done and not sure:
            return gr.update(visible=True)
        switch(desk, dict(zip(KNOBS, values[:-2], strict=True)), values[-2], values[-1])
        return gr.update(visible=False)

    def look(name: str | None, bits: str | int, asked: str) -> list[Any]:
        """Say what is known of the model that is named, and offer what suits it to be asked."""
        found = check(name or "", ask_hub=True)
        offered = [one for one in ASKED if one[1] != STARTER or found.base == STARTER]
        asked = asked if asked in [value for _, value in offered] else ""
        return [check_html(found, bits, machine_of(desk)), gr.update(choices=offered, value=asked)]

    looked: dict[str, Any] = {"inputs": [base, bits, ask], "outputs": [told, ask], **UNSEEN}
    load.click(start, [*form, preset, ask], sure, **UNSEEN)
    yes.click(lambda *values: start(*values, sure=True), [*form, preset, ask], sure, **UNSEEN)
    no.click(lambda: gr.update(visible=False), None, sure, **QUIET)
    remote.change(lambda on: gr.update(visible=on), remote, warning, **QUIET)
    preset.input(lambda name, *old: from_preset(name, old), [preset, base, bits], [base, bits], **QUIET)
    gr.on([base.change, bits.change], look, trigger_mode="always_last", **looked)
    models.pick(_picked, None, base, **QUIET)
    tab.select(lambda: [gr.update(choices=known_bases(desk)), _found(desk)], None, [base, models], **UNSEEN).then(
        look, **looked
    )


def _picked(event: gr.EventData) -> str:
    return str(event.name)


def _found(desk: Desk) -> str:
    machine = machine_of(desk)
    return found_html(found(desk, machine), machine, desk.load_settings.base)


def _choices(name: str) -> list[str]:
    return list(LoadSettings.model_fields[name].annotation.__args__)  # type: ignore[union-attr]


def known_bases(desk: Desk) -> list[str]:
    """List bases to choose from: the starter, the one in memory, and those that adapters were made on."""
    made_on = [str(adapter.card["base"]["name"]) for adapter in list_saved(desk.workspace.adapters_dir)]
    return list(dict.fromkeys(["starter", desk.load_settings.base, *made_on]))


def from_preset(name: str, old: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give the base and bits that a preset was measured with; what it doesn't say stays."""
    chosen = load_preset(name).get("load", {}) if name not in (NO_PRESET, AUTO) else {}
    return chosen.get("base", old[0]), chosen.get("bits", old[1])


def switch(desk: Desk, values: dict[str, Any], preset: str, asked: str = "") -> None:
    """Begin to load the base a form asks for; say what is wrong with the form otherwise."""
    texts = {
        name: value.strip() if isinstance(value, str) else value for name, value in values.items() if value is not None
    }
    about = check(str(texts.get("base") or ""))
    if about.problem:
        gr.Warning(escape(f"{about.problem}; nothing was changed"))
        return
    if texts.get("bits") == AUTO:
        texts["bits"] = choose_bits(about.base, about.shape, machine_of(desk))[0]
    if load := warned(lambda: LoadSettings.parse(texts, "load")):
        if preset != AUTO:
            desk.use_preset(load.base, "" if preset == NO_PRESET else preset)
        store = desk.store
        save_preferences(store, load_preferences(store).model_copy(update={"source": asked}))
        desk.switch_base(load)


# -- the adapters ---------------------------------------------------------------------------------------------


def _adapters(desk: Desk) -> None:
    table = live(lambda: table_html(shelf.rows_of(desk)), LOOKS, elem_id="adapters", opens="adapter")
    chosen = gr.State("")
    with gr.Column(visible=False, elem_id="adapter", variant="panel") as panel:
        card = plain(LOOKS, elem_id="card")
        with gr.Row(elem_classes="bottom"):
            new = gr.Textbox(label="Name", max_lines=1, max_length=64, scale=1, min_width=180, elem_id="new-name")
            rename = gr.Button("Rename", scale=0, min_width=110, elem_id="rename")
            delete = gr.Button("Delete …", variant="stop", scale=0, min_width=130, elem_id="delete")
        with gr.Row(elem_classes="bottom"):
            forms = [(f"{name}: {words}", name) for name, words in FORMATS.items()]
            form = gr.Dropdown(forms, value="peft", label="Export as", scale=1, min_width=180, elem_id="export-form")
            export = gr.Button("Export", variant="primary", scale=0, min_width=150, elem_id="export")
        with gr.Column(visible=False, elem_id="sure-delete") as sure:
            warning = plain(LOOKS)
            with gr.Row():
                yes = gr.Button("Delete for good", variant="stop", scale=0, min_width=190, elem_id="delete-yes")
                no = gr.Button("Keep it", scale=0, min_width=110)
        link = gr.HTML(elem_classes=LOOKS, elem_id="export-link", js_on_load=asset("copy.js"), apply_default_css=False)
    shown = [chosen, table, panel, card, new, sure, link]

    def show(name: str) -> list[Any]:
        """Show an adapter's card, or hide the panel where there is none of that name."""
        adapter = shelf.details_of(desk, name)
        name = adapter.name if adapter else ""
        drawn = gr.HTML(value=table_html(shelf.rows_of(desk)), chosen=name)
        hidden = gr.update(visible=False)
        return [name, drawn, gr.update(visible=bool(name)), card_html(adapter), name, hidden, ""]

    def picked(event: gr.EventData) -> list[Any]:
        return show(str(event.name))

    def renamed(name: str, wanted: str) -> list[Any]:
        now = warned(lambda: shelf.rename(desk, name, wanted))
        return show(now) if now else [gr.skip()] * len(shown)

    def deleted(name: str) -> list[Any]:
        warned(lambda: shelf.delete(desk, name))
        return show(name)

    def ask(name: str) -> tuple[Any, str]:
        return gr.update(visible=True), sure_html(name, shelf.consequences(desk, name))

    table.pick(picked, None, shown, **QUIET)
    rename.click(renamed, [chosen, new], shown, **UNSEEN)
    new.submit(renamed, [chosen, new], shown, **UNSEEN)
    delete.click(ask, chosen, [sure, warning], **QUIET)
    yes.click(deleted, chosen, shown, **UNSEEN)
    no.click(lambda: gr.update(visible=False), None, sure, **QUIET)
    _export(desk, export, [chosen, form], link)
    _import(desk, shown, show)


def _export(desk: Desk, button: gr.Button, asked: list[Any], link: gr.HTML) -> None:
    def exported(name: str, form: str) -> Iterator[tuple[Any, str]]:
        busy = [job for job in desk.engine.jobs if job.kind in ("train", "resume")]
        when = "The engine is training; the export comes right after." if busy else "Exporting …"
        yield gr.update(interactive=False, value="Exporting …"), f"<p role='status'>{when}</p>"
        try:
            job = shelf.begin_export(desk, name, form)
            for now in job.updates():
                if now.text:
                    yield gr.skip(), f"<p role='status'>Exporting: {escape(now.text)} …</p>"
            done = shelf.finished_export(job)
            yield gr.update(interactive=True, value="Export"), exported_html(link_html(done.path), done)
        except LoraRlhfError as error:
            gr.Warning(escape(str(error)))
            yield (
                gr.update(interactive=True, value="Export"),
                f"<p role='status'>Not exported: {escape(str(error))}</p>",
            )

    button.click(exported, asked, [button, link], **UNSEEN)


def _import(desk: Desk, shown: list[Any], show: Callable[[str], list[Any]]) -> None:
    with gr.Accordion("Import an adapter made elsewhere", open=False, elem_id="import-adapter"):
        with gr.Row(elem_classes="bottom"):
            folder = gr.Textbox(
                label="Folder or Hub id", info="A LoRA adapter that peft saved, on this base", max_lines=1, scale=3
            )
            role = gr.Dropdown(IMPORT_AS, value="policy", label="As", scale=1, min_width=150)
            name = gr.Textbox(label="Name", placeholder="the next free one", max_lines=1, max_length=64, scale=1)
            button = gr.Button("Import", scale=0, min_width=110, elem_id="import-button")
        told = plain(LOOKS, elem_id="imported")

    def taken_in(folder: str, role: str, name: str) -> list[Any]:
        try:
            result = shelf.take_in(desk, folder or "", role, name or "")
        except LoraRlhfError as error:
            gr.Warning(escape(str(error)))
            return [*[gr.skip()] * len(shown), f"<p role='status'>Not imported: {escape(str(error))}</p>"]
        return [*show(result["name"]), taken_in_html(result)]

    button.click(taken_in, [folder, role, name], [*shown, told], **UNSEEN)


def sure_html(name: str, consequences: list[str]) -> str:
    """Ask whether an adapter is to go, and say what would miss it."""
    told = "".join(f"<p>{escape(text)}.</p>" for text in consequences)
    return f"<p>Delete <b>{escape(name)}</b>? This can't be undone.</p>{told}"
