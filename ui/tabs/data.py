"""Data: what people said, in numbers and row by row; bring files in, take files out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lorarlhf.data.exporting import EXPORT_FORMATS
from lorarlhf.errors import LoraRlhfError
from lorarlhf.evaluate.duel_words import counted
from lorarlhf.store import OTHERS
from lorarlhf.ui.data import browsing
from lorarlhf.ui.data.browsing import Filters
from lorarlhf.ui.data.browsing_html import KIND_WORDS, OUTCOME_WORDS, list_html, overview_html, preview_html, row_html
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.live import GROWING, QUIET, UNSEEN, link_html, listing, live, plain, remembered, warned
from lorarlhf.ui.rate.sheets import VERDICTS, verdict_of
from lorarlhf.ui.rate.vote_history import History

LOOKS = "data-panel"
VERDICT_WORDS = [(words, name) for name, (_, _, words) in VERDICTS.items()]
IMPORT_WORDS = [
    ("Prompts to answer", "prompts"),
    ("Demonstrations (answers worth imitating)", "demonstrations"),
    ("Comparisons and rankings", "comparisons"),
    ("Backup: all that a lossless export holds", "all"),
]
FORM_WORDS = {
    "lossless": "everything, to bring back later",
    "preference": "prompt, chosen, rejected",
    "demonstrations": "messages with the answer",
    "ranking": "prompt, completions, ranks",
    "csv": "comparisons as a table",
}


def build(desk: Desk, tab: gr.Tab) -> None:
    """Build the tab."""
    live(remembered(lambda: desk.store.counts(), lambda: overview_html(desk.store)), LOOKS, elem_id="data-overview")
    with gr.Row():
        with gr.Column(scale=3, min_width=320):
            rows = Rows(desk)
        with gr.Column(scale=2, min_width=300):
            _bring_in(desk, rows)
            _take_out(desk)
    _others(desk, tab)
    tab.select(rows.offer, rows.kind, rows.choices, **QUIET).then(rows.draw, rows.inputs, rows.outputs, **QUIET)


def _others(desk: Desk, tab: gr.Tab) -> None:
    """Offer to let what was said about other models count too, where there is any."""
    there: dict[str, Any] = {"visible": False, "elem_id": "other-bases", "min_width": 260}
    box = gr.Checkbox(label="Also use what was said about other models", **there)

    def look() -> Any:
        on, others = bool(desk.store.get_meta(OTHERS, False)), desk.store.elsewhere()
        told = ", ".join(counted(count, kind.removesuffix("s")) for kind, count in others.items() if count)
        label = f"Also use what was said about other models: {told}"
        return gr.update(visible=bool(told) or on, value=on, label=label if told else box.label)

    tab.select(look, None, box, **QUIET)
    box.input(lambda on: desk.store.set_meta(OTHERS, bool(on)), box, None, **QUIET)


# -- looking --------------------------------------------------------------------------------------------------


class Rows:
    """Filters, one page of the rows they find, and the row that was opened."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        with gr.Row():
            kinds = [(words, kind) for kind, words in KIND_WORDS.items()]
            self.kind = gr.Dropdown(kinds, value="comparisons", label="Show", min_width=170, elem_id="kind")
            self.text = gr.Textbox(
                label="Search",
                placeholder="words of prompt or answers",
                max_lines=1,
                scale=2,
                min_width=200,
                elem_id="search",
            )
        with gr.Row(elem_classes="bottom"):
            self.choices = [
                gr.Dropdown(
                    [("any", "")], value="", label=label, min_width=120, elem_id=f"by-{label.lower()}", **GROWING
                )
                for label in ("Outcome", "Rater", "List", "Source")
            ]
            self.gone = gr.Checkbox(label="Show deleted", min_width=240, elem_id="by-gone")
        self.list = listing(LOOKS, elem_id="rows", opens="row")
        with gr.Row(elem_classes="middle"):
            self.newer = gr.Button("Newer", size="sm", scale=0, min_width=80, elem_id="newer")
            self.told = plain(LOOKS, elem_id="told", scale=1, min_width=120)
            self.older = gr.Button("Older", size="sm", scale=0, min_width=80, elem_id="older")
        self.number = gr.State(0)
        self.filters = [self.kind, *self.choices, self.text, self.gone]
        self.inputs = [self.number, *self.filters]
        self.outputs = [self.list, self.told, self.newer, self.older, self.number]
        self._wire()

    def _wire(self) -> None:
        opened = _Opened(self)
        first: dict[str, Any] = {
            "fn": lambda *chosen: self.draw(0, *chosen),
            "inputs": self.filters,
            "outputs": self.outputs,
            **QUIET,
        }
        for event in (*(choice.input for choice in self.choices), self.text.change, self.gone.input):
            event(**first, trigger_mode="always_last")  # no letter typed meanwhile is lost
        # What was open goes at once: at the end it would close what was opened meanwhile.
        self.kind.input(lambda kind: opened.show(kind, ""), self.kind, opened.outputs, **QUIET)
        self.kind.input(self.offer, self.kind, self.choices, **QUIET).then(**first)
        for button, step in ((self.newer, -1), (self.older, 1)):
            turn = partial(self._turn, step)
            button.click(turn, self.inputs, self.outputs, **QUIET)

    def draw(self, number: int, *chosen: Any) -> list[Any]:
        """Find the rows and show one page of them."""
        kind, outcome, rater, queue, source, text, gone = (value or "" for value in chosen)
        filters = Filters(kind, outcome, rater, queue, source, text, bool(gone))
        page = browsing.look(self.desk.store, filters, number)
        can = [gr.update(interactive=page.number > 0), gr.update(interactive=page.number < page.pages - 1)]
        return [list_html(page), f"<p role='status'>{page.told}</p>", *can, page.number]

    def _turn(self, step: int, number: int, *chosen: Any) -> list[Any]:
        return self.draw(number + step, *chosen)

    def offer(self, kind: str) -> list[Any]:
        """Offer the filters that rows of a kind have."""
        there = browsing.choices(self.desk.store, kind)
        return [
            gr.update(
                choices=[("any", ""), *((OUTCOME_WORDS.get(value, value), value) for value in values)],
                value="",
                visible=bool(values),
            )
            for values in there.values()
        ]


class _Opened:
    """The row that was opened, and what can be done to it."""

    def __init__(self, rows: Rows) -> None:
        self.rows, self.store = rows, rows.desk.store
        self.id = gr.State("")
        with gr.Column(visible=False, variant="panel", elem_id="row") as self.panel:
            self.whole = plain(LOOKS, elem_id="row-whole")
            self.verdict = gr.Dropdown(VERDICT_WORDS, label="Verdict", min_width=200, elem_id="row-verdict")
            self.words = gr.Textbox(label="Wording", lines=2, max_lines=12, elem_id="wording")
            with gr.Row():
                self.save = gr.Button("Save the wording", min_width=140, elem_id="save-wording")
                self.delete = gr.Button("Delete", variant="stop", min_width=100, elem_id="delete-row")
                close = gr.Button("Close", min_width=90)
            self.note = gr.Markdown("A deleted row no longer counts; the history and backups keep it.")
        self.outputs = [self.id, self.list_, self.panel, self.whole, self.words, self.save, self.delete, self.note]
        self.outputs += [self.verdict]
        after: dict[str, Any] = {"fn": rows.draw, "inputs": rows.inputs, "outputs": rows.outputs, **QUIET}
        self.list_.pick(self._picked, rows.kind, self.outputs, **QUIET)
        close.click(lambda kind: self.show(kind, ""), rows.kind, self.outputs, **QUIET)
        self.save.click(self._saved, [rows.kind, self.id, self.words], self.outputs, **UNSEEN).then(**after)
        self.verdict.input(self._changed, [rows.kind, self.id, self.verdict], self.outputs, **UNSEEN).then(**after)
        self.delete.click(self._deleted, [rows.kind, self.id], self.outputs, **UNSEEN).then(**after)

    @property
    def list_(self) -> gr.HTML:
        """The list it was opened from."""
        return self.rows.list

    def show(self, kind: str, id: str) -> list[Any]:
        """Open a row, or close the panel where there is none of that number."""
        row = browsing.find(self.store, kind, int(id)) if id else None
        counts = row is not None and not row.undone
        edit = counts and kind in ("prompts", "demonstrations")
        words = ""
        if row and edit:
            words = row.value[-1]["content"] if kind == "prompts" else row.value.response
        verdict = verdict_of(row.value) if row and counts and kind == "comparisons" else None
        return [
            str(row.id) if row else "",
            gr.HTML(chosen=str(row.id) if row else ""),
            gr.update(visible=row is not None),
            row_html(row),
            gr.update(value=words, visible=edit),
            gr.update(visible=edit),
            gr.update(visible=counts),
            gr.update(visible=counts),
            gr.update(visible=verdict is not None, value=verdict),
        ]

    def _picked(self, kind: str, event: gr.EventData) -> list[Any]:
        return self.show(kind, str(event.name))

    def _saved(self, kind: str, id: str, words: str) -> list[Any]:
        edit = browsing.edit_prompt if kind == "prompts" else browsing.edit_answer
        row = warned(lambda: edit(self.store, int(id), words))
        return self._after(kind, row, "Saved; the old wording stays in the history")

    def _changed(self, kind: str, id: str, verdict: str) -> list[Any]:
        row = warned(lambda: History(self.store).change(kind, int(id), verdict))
        return self._after(kind, row, "Changed; what was said before stays in the history")

    def _after(self, kind: str, row: int | None, words: str) -> list[Any]:
        """Show what became of a row, or leave all as it is where nothing did."""
        if row is None:
            return [gr.skip()] * len(self.outputs)
        gr.Info(words)
        return self.show(kind, str(row))

    def _deleted(self, kind: str, id: str) -> list[Any]:
        warned(lambda: self.store.undo(kind, int(id)))
        return self.show(kind, "")


# -- files ----------------------------------------------------------------------------------------------------


def _bring_in(desk: Desk, rows: Rows) -> None:
    gr.Markdown("### Import")
    with gr.Row():
        prompts = gr.Button("The starter's prompts", size="sm", min_width=140, elem_id="starter-prompts")
        answers = gr.Button("The starter's demonstrations", size="sm", min_width=140, elem_id="starter-demonstrations")
    most = f"Max {browsing.LARGEST // 2**20} MB. One bad row rejects the file (change under Options)."
    file = gr.File(
        label="File: JSONL, JSON, CSV, TSV, Parquet, text, or .gz",
        file_types=list(browsing.TYPES),
        height=170,
        elem_id="import-file",
    )
    kind = gr.Dropdown(IMPORT_WORDS, value="prompts", label="Type (detected)", elem_id="import-kind")
    with gr.Accordion("Options", open=False):
        queue = gr.Textbox(label="Name of the list that prompts join", max_lines=1, max_length=64, elem_id="queue")
        skip = gr.Checkbox(label="Leave out bad rows instead of refusing the file")
        hub = gr.Textbox(label="Data set of the Hub, instead of a file", placeholder="owner/name", max_lines=1)
        fetch = gr.Button("Fetch from the Hub", size="sm")
    go = gr.Button("Import", variant="primary", elem_id="import")
    said = plain(LOOKS, elem_id="imported", value=f"<p class='subdued'>{most}</p>")

    def report(work: Callable[[], dict[str, Any]]) -> str:
        try:
            words = escape(browsing.happened(work()))
            gr.Info(words)
            return f"<p class='good' role='status'>{words}</p>"
        except LoraRlhfError as error:
            return f"<p class='bad' role='alert'>{escape(str(error))}</p>"

    # A field that was never unfolded sends None.
    def upload(path: str | None, kind: str, queue: str | None, skip: bool) -> tuple[str, None]:
        if not path:
            return "<p class='bad' role='alert'>Choose a file first, or drop one above.</p>", None
        return report(
            lambda: browsing.bring_in(desk.workspace, Path(path), kind, queue or "", skip, desk.fingerprint)
        ), None

    def starter(kind: str) -> str:
        return report(lambda: browsing.bring_in_starter(desk.workspace, kind, desk.fingerprint))

    def from_hub(name: str | None, kind: str) -> str:
        return report(lambda: browsing.bring_in_hub(desk.workspace, name or "", kind))

    def look(path: str | None, kind: str, skip: bool) -> str:
        if not path:
            return ""
        try:
            return preview_html(browsing.preview(Path(path), kind, bool(skip)))
        except LoraRlhfError as error:
            return f"<p class='bad' role='alert'>{escape(str(error))}</p>"

    guessed = file.upload(lambda path: browsing.guess(Path(path)), file, kind, **QUIET)
    guessed.then(look, [file, kind, skip], said, **QUIET)
    kind.input(look, [file, kind, skip], said, **QUIET)
    skip.input(look, [file, kind, skip], said, **QUIET)
    file.clear(lambda: "", None, said, **QUIET)
    waiting: dict[str, Any] = {"fn": lambda: "<p role='status'>Reading …</p>", "outputs": said, **QUIET}
    done = [
        go.click(**waiting).then(upload, [file, kind, queue, skip], [said, file], **UNSEEN),
        prompts.click(**waiting).then(lambda: starter("prompts"), None, said, **UNSEEN),
        answers.click(**waiting).then(lambda: starter("demonstrations"), None, said, **UNSEEN),
        fetch.click(**waiting).then(from_hub, [hub, kind], said, **UNSEEN),
    ]
    for event in done:
        offered = event.then(rows.offer, rows.kind, rows.choices, **QUIET)
        offered.then(rows.draw, rows.inputs, rows.outputs, **QUIET)


def _take_out(desk: Desk) -> None:
    gr.Markdown("### Export")
    forms = [(f"{name}: {FORM_WORDS.get(name, '')}", name) for name in EXPORT_FORMATS]
    form = gr.Dropdown(forms, value="lossless", label="As", elem_id="export-form")
    go = gr.Button("Export", elem_id="export-votes")
    link = plain(LOOKS, elem_id="votes-link")

    def written(form: str) -> str:
        try:
            return link_html(browsing.take_out(desk.workspace, form, desk.fingerprint))
        except LoraRlhfError as error:
            return f"<p class='bad' role='alert'>{escape(str(error))}</p>"

    go.click(written, form, link, **UNSEEN)
