"""The models to choose from, and what is known of one, as HTML. Pure functions; names are escaped; no Gradio."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from lorarlhf.figures import duration
from lorarlhf.files import size
from lorarlhf.plan.shapes import Shape
from lorarlhf.ui.desk import STARTER
from lorarlhf.ui.models.candidates import (
    SMALL,
    Check,
    Found,
    Machine,
    choose_bits,
    fits,
    pair_seconds,
    parameters,
    sections,
    training_bytes,
)


def found_html(rows: Iterable[Found], machine: Machine, now: str) -> str:
    """List models with their size, what training them takes here, and how long a pair of answers does."""
    body = "".join(
        f"<tr class='section'><th colspan='4' scope='colgroup'>{escape(section)}</th></tr>"
        + "".join(_row(row, machine, now) for row in some)
        for section, some in sections(rows).items()
    )
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("Model", "Size", "Training takes", "A pair"))
    return (
        f"<table class='found'><caption class='sr'>Models to choose from</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _row(row: Found, machine: Machine, now: str) -> str:
    mark = " <span class='tag'>loaded</span>" if row.base == now else ""
    name = escape(row.base, quote=True)
    button = f"<button type='button' data-name='{name}'>{escape(_short(row.base))}</button>{mark}"
    licence = f"<div class='subdued'>{escape(row.licence)}</div>" if row.licence else ""
    if row.shape is None:
        cells = ["", "", ""]
    else:
        bits, _ = choose_bits(row.base, row.shape, machine)
        there = "✓" if fits(row.shape, bits, machine) else "✗ too large"
        need = size(training_bytes(row.shape, bits, machine.device, machine.item))
        seconds = pair_seconds(row.shape, bits, machine)
        cells = [_count(row.shape), f"{need} {there}", f"about {duration(seconds)}"]
    labels = ("Size", "Training takes", "A pair")
    rest = "".join(f"<td data-label='{label}'>{cell}</td>" for label, cell in zip(labels, cells, strict=True))
    return f"<tr><td data-label='Model' title='{name}'>{button}{licence}</td>{rest}</tr>"


def _short(base: str) -> str:
    """Leave a folder's last part of a long path; Hub ids stay as they are."""
    return base if base.count("/") <= 1 else f"…/{base.rstrip('/').rpartition('/')[2]}"


def _count(shape: Shape) -> str:
    count = parameters(shape)
    if count >= 0.95e9:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.{0 if count >= 2e6 else 1}f}M"


def check_html(check: Check, asked: str | int, machine: Machine) -> str:
    """Say what is known of a model in a precision: whether it is there, fits, how fast it is, and what was chosen."""
    if check.problem:
        return f"<p class='check bad' role='alert'>✗ {escape(check.problem)}. Nothing was changed.</p>"
    facts = [f"✓ {escape(check.note)}"] if check.note else []
    bits, why = choose_bits(check.base, check.shape, machine)
    chosen = bits if asked == "auto" else int(asked)
    warning = ""
    if shape := check.shape:
        need = size(training_bytes(shape, chosen, machine.device, machine.item))
        there = fits(shape, chosen, machine)
        facts.append(f"{_count(shape)} parameters")
        facts.append(f"{'✓ fits' if there else '✗ does not fit'}: training takes {need} of {size(machine.free)}")
        facts.append(f"about {duration(pair_seconds(shape, chosen, machine))} a pair")
        if chosen == 4 and parameters(shape) < SMALL and check.base != STARTER:
            warning = "<p class='check warn'>So small a model answers worse in 4 bits: take 16 if it fits.</p>"
        if not there:
            warning += "<p class='check bad'>Training would not fit. Rating may: or take a smaller one.</p>"
    facts.append(f"licence {escape(check.licence)}" if check.licence else "licence unknown: look at its page")
    auto = f"<p class='subdued'>{escape(why)}.</p>" if asked == "auto" else ""
    settings = "Learning rates and passes are found for the model when training begins."
    return f"<p class='check'>{' · '.join(facts)}</p>{auto}{warning}<p class='subdued'>{settings}</p>"
