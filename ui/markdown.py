"""Markdown of models and people as HTML that can do nothing: no images, no scripts, no addresses that are fetched.

Answers come in lists, tables, code and formulas; they are judged as their readers will see them. Whatever else looks
like HTML is shown as the text it is. What is rendered goes through a sanitiser once more.
"""

from __future__ import annotations

import re
from functools import lru_cache
from html import escape
from typing import Any

import nh3
from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from lorarlhf.types import Prompt

_CODE = re.compile(r"(```.*?(?:```|\Z)|`[^`\n]*`)", re.S)
_INLINE, _DISPLAYED = re.compile(r"\\\((.+?)\\\)"), re.compile(r"\\\[(.+?)\\\]", re.S)
LONGEST = 40_000
"""Letters beyond which a text is shown as it is: nobody reads so much, and rendering takes its time."""
_MATHML = {"math", "mrow", "mi", "mn", "mo", "ms", "mtext", "mspace", "msup", "msub", "msubsup", "mfrac", "msqrt"}
_MATHML |= {"mroot", "mtable", "mtr", "mtd", "munder", "mover", "munderover", "mstyle", "mpadded", "menclose"}
TAGS = {"p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "span"}
TAGS |= {"strong", "em", "s", "table", "thead", "tbody", "tr", "th", "td", "a", "div"} | _MATHML
ATTRIBUTES = {
    "a": {"href", "title"},
    "span": {"class"},
    "div": {"class", "dir"},
    "pre": {"class", "dir"},
    "code": {"class"},
    "ol": {"start"},
    "th": {"style"},
    "td": {"style"},
    "math": {"display", "xmlns"},
    **{tag: {"stretchy", "fence", "mathvariant", "width", "columnalign", "displaystyle"} for tag in _MATHML - {"math"}},
}


@lru_cache(maxsize=512)
def rendered(text: str) -> str:
    """Write a text as safe HTML; its paragraphs run in the direction of their first letter."""
    if len(text) > LONGEST:
        return f"<div dir='auto' class='plain'>{escape(text)}</div>"
    html = _markdown().render(_one_way_of_formulas(text))
    return nh3.clean(
        html,
        tags=TAGS,
        attributes=ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        filter_style_properties={"text-align"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}, "p": {"dir": "auto"}, "li": {"dir": "auto"}},
    )


def told(prompt: Prompt) -> list[dict[str, str]]:
    """Write a conversation for a page: what was said, and how it is shown."""
    return [{"role": turn["role"], "content": turn["content"], "html": rendered(turn["content"])} for turn in prompt]


def _one_way_of_formulas(text: str) -> str:
    """Write the formulas that stand between \\( \\) or \\[ \\] between dollars, outside of code."""
    parts = _CODE.split(text)
    for i in range(0, len(parts), 2):
        parts[i] = _DISPLAYED.sub(lambda found: f"$${found[1].strip()}$$", parts[i])
        parts[i] = _INLINE.sub(lambda found: f"${found[1].strip()}$", parts[i])
    return "".join(parts)


@lru_cache(maxsize=1)
def _markdown() -> Any:
    options = {"html": False, "breaks": True, "linkify": False, "highlight": _coloured}
    made = MarkdownIt("commonmark", options).enable(["table", "strikethrough"]).disable("image")
    return made.use(dollarmath_plugin, allow_digits=False, allow_space=False, double_inline=True, renderer=_formula)


def _coloured(code: str, language: str, _: str) -> str:
    """Colour code whose language is named and known; classes alone, whose colours the style sheet has."""
    try:
        lexer = get_lexer_by_name(language) if language else None
    except ClassNotFound:
        lexer = None
    inner = highlight(code, lexer, HtmlFormatter(nowrap=True)) if lexer else escape(code)
    return f"<pre dir='ltr'><code class='hl'>{inner}</code></pre>"


def _formula(text: str, options: dict[str, Any]) -> str:
    """Write a formula as MathML, which browsers draw themselves; as it stands where it is none."""
    try:
        return str(convert(text, display="block" if options.get("display_mode") else "inline"))
    except Exception:  # its parser raises whatever it stumbles over
        return f"<code>{escape(text)}</code>"
