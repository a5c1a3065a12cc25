"""Answers as Markdown: what readers see, and nothing that a page would run or fetch."""

from __future__ import annotations

import pytest

from lorarlhf.types import user
from lorarlhf.ui.markdown import LONGEST, rendered, told


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Yes, **really**.\nA new line", ["<strong>really</strong>", "<br>"]),
        ("- one\n- two", ["<ul>", '<li dir="auto">one</li>']),
        ("3. three\n4. four", ['<ol start="3">']),
        ("| a | b |\n|---|--:|\n| 1 | 2 |", ["<table>", '<td style="text-align:right">2</td>']),
        ("```python\nif x:\n    pass\n```", ['<pre dir="ltr">', '<span class="k">if</span>']),
        ("```nonesuch\n<b>\n```", ["&lt;b&gt;"]),
        ("half a fence\n```\ncode", ["<pre"]),
        ("so $x^2$ is", ["<msup>"]),
        (r"so \(x^2\) is, and \[\frac{1}{2}\] too", ["<msup>", "<mfrac>"]),
        (r"`\(code\)` stays", [r"\(code\)"]),
        ("It costs $5, or $6 with a box", ["$5, or $6"]),
        ("2 < 3 & 4", ["2 &lt; 3 &amp; 4"]),
    ],
)
def test_what_readers_see(text, shown):
    html = rendered(text)
    assert all(part in html for part in shown), html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "![a](http://elsewhere/x.png)",
        "[x](javascript:alert(1))",
        "<a href='javascript:alert(1)'>x</a>",
        "[x](data:text/html,<script>alert(1)</script>)",
        "$\\href{javascript:alert(1)}{x}$",
        "$</math><script>alert(1)</script>$",
        "```<script>\nalert(1)\n```",
        "<style>body{display:none}</style>",
        "<svg onload=alert(1)>",
        "<iframe src='http://elsewhere'></iframe>",
    ],
)
def test_nothing_is_run_or_fetched(text):
    html = rendered(text).lower()
    for mark in ("<script", "<img", "<iframe", "<svg", "<style", 'href="javascript', 'href="data:', "src="):
        assert mark not in html.replace("&lt;", "").replace("src=x", "").replace("src='http", ""), html
    assert " onerror" not in html.split("&lt;img")[0]


def test_links_leave_the_page_and_long_texts_stay_text():
    assert 'target="_blank"' in rendered("[x](https://example.org)")
    assert 'rel="noopener noreferrer nofollow"' in rendered("[x](https://example.org)")
    assert rendered("<b>" * LONGEST).startswith("<div dir='auto' class='plain'>&lt;b&gt;")
    assert told(user("*so*")) == [{"role": "user", "content": "*so*", "html": '<p dir="auto"><em>so</em></p>\n'}]
