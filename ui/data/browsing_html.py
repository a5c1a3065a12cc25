"""Rows and numbers of the data as HTML: text of people and models is always escaped."""

from __future__ import annotations

from html import escape
from typing import Any

from lorarlhf.data.importing import Imported
from lorarlhf.figures import clock
from lorarlhf.store import Row, Store
from lorarlhf.store.codec import prompt_of
from lorarlhf.types import Comparison, Outcome, Ranking, is_heldout
from lorarlhf.ui.data import browsing
from lorarlhf.ui.data.browsing import Page, answers_of, rater_of
from lorarlhf.ui.markdown import rendered

KIND_WORDS = {"comparisons": "Comparisons", "rankings": "Rankings", "demonstrations": "Demonstrations"}
KIND_WORDS |= {"prompts": "Prompts"}
OUTCOME_WORDS = {"a": "A is better", "b": "B is better", "tie": "tie", "both_bad": "both bad", "skip": "skipped"}
PREVIEWED = 3
"""Rows shown of a file before it is imported."""
SHORT = 160
"""Letters of a text in the list."""


def overview_html(store: Store) -> str:
    """Write the counts, and the balance of what was voted."""
    counts, outcomes, sides = store.counts(), store.outcomes(), browsing.sides(store)
    tiles = [(words, counts[kind]) for kind, words in KIND_WORDS.items()]
    tiles += [("Raters", counts["raters"]), ("Undone", counts["undone"])]
    told = "".join(f"<div><dt>{name}</dt><dd>{count}</dd></div>" for name, count in tiles)
    prompts, kept = browsing.held_out(store)
    undecided = {OUTCOME_WORDS[name]: outcomes.get(name, 0) for name in ("tie", "both_bad", "skip")}
    bars = [
        _bar("Outcomes", {"one is better": outcomes.get("a", 0) + outcomes.get("b", 0), **undecided}),
        _bar("Preferred side", sides),
        _bar("Different prompts", {"for training": prompts - kept, "test set": kept}),
    ]
    return f"<dl class='counts'>{told}</dl><div class='bars'>{''.join(bars)}</div>"


def _bar(title: str, values: dict[str, int]) -> str:
    whole = sum(values.values())
    if not whole:
        return ""
    shown = {name: count for name, count in values.items() if count}
    told = ", ".join(f"{name} {count}" for name, count in shown.items())
    order = list(values)
    pieces = "".join(f"<i class='c{order.index(name)}' style='flex-grow:{count}'></i>" for name, count in shown.items())
    legend = "".join(
        f"<li><i class='c{order.index(name)}' aria-hidden='true'></i>{name} <b>{count}</b> {count / whole:.0%}</li>"
        for name, count in shown.items()
    )
    label = escape(f"{title}: {told}", quote=True)
    return (
        f"<section><h4>{title}</h4><div class='bar' role='img' aria-label='{label}'>{pieces}</div>"
        f"<ul class='key'>{legend}</ul></section>"
    )


def list_html(page: Page) -> str:
    """Write one page of rows, each a button that opens it."""
    if not page.rows:
        where = f" {page.elsewhere}." if page.elsewhere else " Rate some answers, or import a file."
        return f"<p class='subdued'>{'No matches.' if page.elsewhere else 'Nothing yet, or no matches.'}{where}</p>"
    return f"<ol class='rows'>{''.join(map(_item, page.rows))}</ol>"


def _item(row: Row[Any]) -> str:
    gone = "gone" if row.undone else ""
    tags = [verdict(row), rater_of(row), row.queue, "test set" if is_heldout(prompt_of(row.value)) else ""]
    tags += ["replaced" if row.replaced_by else "deleted"] if row.undone else []
    marks = "".join(f"<span class='tag'>{escape(tag)}</span>" for tag in tags if tag)
    answers = " · ".join(_short(text) for text in answers_of(row.value)[:2])
    said = f"<span class='excerpt'>{answers}</span>" if answers else ""
    return (
        f"<li class='{gone}'><button type='button' data-name='{row.id}' aria-pressed='false'>"
        f"<span class='top'><b>{_short(prompt_of(row.value)[-1]['content'])}</b></span>"
        f"{said}</button><span class='marks'>#{row.id} · {_when(row)}{marks}</span></li>"
    )


def preview_html(found: Imported) -> str:
    """Say what a file was taken for, and show its first rows as they will stand here."""
    shown = []
    for item in found.items[:PREVIEWED]:
        asked = _short(prompt_of(item.value)[-1]["content"])
        answers = "".join(_answer(name, text, best) for name, text, best in _answers(item.value))
        shown.append(f"<li><b>{asked}</b><div class='replies'>{answers}</div></li>")
    bad = f"; {found.bad} bad rows will be left out" if found.bad else ""
    return (
        f"<div role='status'><p>{escape(found.file)}: {escape(found.understood)}{bad}. Nothing is imported yet.</p>"
        f"<ol class='rows'>{''.join(shown)}</ol></div>"
    )


def _short(text: str) -> str:
    text = " ".join(text.split())
    return f"<bdi>{escape(text if len(text) <= SHORT else text[: SHORT - 1] + '…')}</bdi>"


def _when(row: Row[Any]) -> str:
    return escape(clock(row.created, day=True))


def verdict(row: Row[Any]) -> str:
    """Say in a few words what a vote says."""
    value = browsing.as_shown(row.value)
    if isinstance(value, Comparison):
        outcome = Outcome(value.outcome)
        much = outcome in (Outcome.A, Outcome.B) and value.strength > 1
        return OUTCOME_WORDS[outcome.value].replace("is", "is much" if much else "is")
    return f"{len(value.completions)} ranked" if isinstance(value, Ranking) else ""


def row_html(row: Row[Any] | None) -> str:
    """Write a row in full."""
    if row is None:
        return ""
    turns = "".join(
        f"<div class='turn'><b>{escape(m['role'])}</b><div class='words md'>{rendered(m['content'])}</div></div>"
        for m in prompt_of(row.value)
    )
    answers = "".join(_answer(name, text, best) for name, text, best in _answers(row.value))
    facts = "".join(f"<span class='tag'>{escape(fact)}</span>" for fact in _facts(row))
    title = f"{KIND_WORDS[row.kind][:-1]} #{row.id}"
    return f"<h3>{title}</h3><p>{facts}</p>{turns}<div class='replies'>{answers}</div>"


def _answer(name: str, text: str, best: bool) -> str:
    return (
        f"<div class='reply {'best' if best else ''}'><b>{escape(name)}</b>"
        f"<div class='words md' dir='auto'>{rendered(text)}</div></div>"
    )


def _answers(value: Any) -> list[tuple[str, str, bool]]:
    """Give each answer a name and tell whether it is the preferred one."""
    if isinstance(value, Comparison):
        seen = browsing.as_shown(value)
        said = Outcome(seen.outcome).value
        # Only what was rated side by side has sides.
        left, right = ("A · left", "B · right") if value.origin.source == "app" else ("A", "B")
        return [(left, seen.a, said == "a"), (right, seen.b, said == "b")]
    if isinstance(value, Ranking):
        ranked = sorted(zip(value.ranks, value.completions, strict=True), key=lambda pair: pair[0])
        return [(f"Place {rank}", text, rank == ranked[0][0]) for rank, text in ranked]
    return [("Answer", text, True) for text in answers_of(value)]


def _facts(row: Row[Any]) -> list[str]:
    facts = [_when(row), verdict(row), f"queue {row.queue}" if row.queue else ""]
    if is_heldout(prompt_of(row.value)):
        facts.append("test set")
    if origin := getattr(row.value, "origin", None):
        facts += [f"by {origin.rater}" if origin.rater else "", f"from {origin.source}" if origin.source else ""]
        facts += [f"{origin.seconds:.0f} s" if origin.seconds else "", f"note: {origin.note}" if origin.note else ""]
        facts += [f"written by {name or 'the base model'}" for name in dict.fromkeys(origin.adapters)]
    facts += [f"because {reason}" for reason in getattr(row.value, "reasons", ())]
    facts += [f"{name}: {Outcome(said).value}" for name, said in getattr(row.value, "criteria", {}).items()]
    if row.undone:
        facts.append(f"replaced by #{row.replaced_by}" if row.replaced_by else "deleted; kept in the history")
    return [fact for fact in facts if fact]
