"""The adapters' table and one adapter's card as HTML: text of people and models is always escaped."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from lorarlhf.evaluate.duel_words import card_lines
from lorarlhf.figures import figure
from lorarlhf.library import BARE, SavedAdapter
from lorarlhf.ui.models.shelf import ROLES, Exported, Row, base_name, measured

COLUMNS = ("Adapter", "Made by", "Base", "From", "Learned from", "Result", "Made on")
TITLE = "<h3>Adapters</h3>"
NONE_YET = (
    "<p class='subdued'>No adapters yet. Once you have some votes or demonstrations, "
    "train one under <b>Train</b>; it then appears here.</p>"
)


def table_html(rows: list[Row]) -> str:
    """Write the table; a row's button is what a click or a key chooses it with."""
    if not rows:
        return TITLE + NONE_YET
    head = "".join(f"<th scope='col'><span>{name}</span></th>" for name in COLUMNS)
    return f"{TITLE}<table><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row_html, rows))}</tbody></table>"


def _row_html(row: Row) -> str:
    name = escape(row["name"], quote=True)
    other = "" if row["fits"] else "<span class='tag'>other base</span>"
    base = f"{escape(row['base'])}, {escape(str(row['bits']))} bit {other}"
    cells = [
        f"<button type='button' data-name='{name}' aria-pressed='false'>{escape(row['name'])}</button>",
        escape(row["role"]),
        base,
        escape(", ".join(row["parents"])) or "the base model",
        escape(", ".join(row["data"])) or "–",
        escape(row["result"]) or "–",
        escape(row["created"]) or "–",
    ]
    named = zip(COLUMNS, cells, strict=True)
    inside = "".join(f"<td data-label='{column}'><div>{cell}</div></td>" for column, cell in named)
    return f"<tr class='{'' if row['fits'] else 'other'}'>{inside}</tr>"


SEAL = (
    "<svg class='seal' viewBox='0 0 24 24' width='36' height='36' aria-hidden='true'>"
    "<path fill='currentColor' d='M12 1l2.6 2.2 3.4-.4 1 3.3 3.1 1.4-.6 3.4 1.5 3.1-2.6 2.3-.2 3.4-3.4.6-1.8 2.9-3-1.5"
    "-3 1.5-1.8-2.9-3.4-.6-.2-3.4L1 14l1.5-3.1-.6-3.4L5 6.1l1-3.3 3.4.4z'/>"
    "<path fill='none' stroke='#fff' stroke-width='2.2' d='M7.5 12.2l3 3 6-6.2'/></svg>"
)


def exported_html(link: str, exported: Exported) -> str:
    """Write the link to an export, or where its folder is, the seal of its check, and how to use it."""
    place = f"<p role='status'>Written to {escape(str(exported.path))}</p>" if exported.path.is_dir() else link
    seal = (
        f"<div class='verified'>{SEAL}<div><b>Verified</b><p class='subdued'>Read back in a fresh process: "
        f"{escape(exported.check)}.</p></div></div>"
    )
    lines = escape("\n".join(exported.lines))
    use = (
        "<div class='use'><button type='button' data-copy>Copy</button><pre tabindex='0'>"
        f"<code>{lines}</code></pre></div><p class='subdued'>The README inside says the rest.</p>"
        if lines
        else ""
    )
    return f"{seal}{place}{use}"


def taken_in_html(result: dict[str, Any]) -> str:
    """Say what an adapter taken in is called, and what is to be known about it."""
    remarks = "".join(f"<p>Note: {escape(text)}.</p>" for text in result["remarks"])
    return f"<p role='status'>Imported as <b>{escape(result['name'])}</b>.</p>{remarks}"


def card_html(adapter: SavedAdapter | None) -> str:
    """Write everything an adapter's card says."""
    if adapter is None:
        return ""
    card = adapter.card
    base = card["base"]
    facts = {
        "Made by": ROLES.get(adapter.stage, adapter.stage),
        "Run": card.get("run", ""),
        "Imported from": str(card.get("imported", {}).get("from", "")),
        "Made on": str(card.get("created", ""))[:16].replace("T", " "),
        "Base": f"{base_name(str(base['name']))}, {base.get('bits', '?')} bit"
        + (f", revision {base['revision']}" if base.get("revision") else ""),
        "From": ", ".join(f"{p['name']} ({role})" for role, p in card.get("parents", {}).items() if p["name"] != BARE),
        "Learned from": ", ".join(f"{len(ids)} {kind}" for kind, ids in card.get("data", {}).items() if ids),
        "Content hash": adapter.hash[:16],
    }
    numbers = {name: figure(value, ".4g") for name, value in measured(adapter).items()}
    return (
        f"<h3>{escape(adapter.name)}</h3>{_list(facts)}{_fold('Blind comparisons', card_lines(card))}"
        f"{_fold('Measured at the end', numbers)}{_fold('Settings', card.get('settings', {}))}"
    )


def _fold(title: str, values: dict[str, Any]) -> str:
    return f"<details><summary>{title}</summary>{_list(values)}</details>" if values else ""


def _list(values: dict[str, Any]) -> str:
    pairs = ((escape(str(name)), escape(_text(value))) for name, value in values.items() if value not in ("", None))
    return "<dl>" + "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in pairs) + "</dl>"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
