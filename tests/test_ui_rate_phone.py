"""Rating on a phone in a real browser: swiped, taken back, and from tab to tab by the bar at the bottom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from lorarlhf.store import Store
from lorarlhf.types import Outcome
from lorarlhf.workspace import Workspace
from tests.browser import App, cramped, draw_little, ready
from tests.test_ui_app import offences
from tests.test_ui_rate_browser import settle, told

PHONE = {"wide": 390, "high": 844, "has_touch": True, "is_mobile": True}
TOUCH = """([kind, x, y]) => {
  const node = document.querySelector('.answers .answer .text');
  const touch = new Touch({identifier: 1, target: node, clientX: x, clientY: y});
  const on = kind === 'touchend' ? [] : [touch];
  node.dispatchEvent(new TouchEvent(kind, {touches: on, changedTouches: [touch], bubbles: true}));
}"""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    place = Workspace(tmp_path_factory.mktemp("phone") / "work").open()
    draw_little(place)
    with App(place.path) as started:
        yield started


@pytest.fixture
def store(app: App) -> Iterator[Store]:
    with Store(Workspace(app.workspace).db) as opened:
        yield opened


def swipe(page: Page, x: float, y: float = 0.0) -> None:
    for kind, share in (("touchstart", 0.0), ("touchmove", 0.5), ("touchmove", 1.0)):
        page.evaluate(TOUCH, [kind, 200 + share * x, 300 + share * y])
    if abs(x) > 50 and abs(y) < 20:
        expect(page.locator(".swipe")).to_be_visible()
    page.evaluate(TOUCH, ["touchend", 200 + x, 300 + y])


def test_a_swipe_votes_only_where_it_is_meant_and_can_be_taken_back(app: App, store: Store):
    with app.page(**PHONE) as page:
        before = settle(page)
        for x, y in ((-80, 0), (100, 0), (-60, -180), (150, 140)):  # too short, or scrolling
            swipe(page, x, y)
        page.wait_for_timeout(400)
        assert settle(page) == before
        assert store.counts()["comparisons"] == 0
        swipe(page, -150)
        told(page, "Saved: A better")
        said = store.comparisons()[-1].value
        assert (said.outcome if said.left == "a" else said.outcome.swap()) is Outcome.A
        # The pair that follows is not voted on by the end of the same swipe.
        page.evaluate(TOUCH, ["touchend", 20, 300])
        page.locator(".said .words button").click()
        told(page, "Undone")
        assert store.counts()["comparisons"] == 0
        assert settle(page)
        swipe(page, 150)
        told(page, "Saved: B better")
        assert not offences(page)


def test_the_bar_at_the_bottom_leads_everywhere_and_covers_no_verdict(app: App):
    with app.page(**PHONE) as page:
        ready(page)
        settle(page)
        bar = page.locator(".bottom-bar")
        verdicts, at = page.locator(".verdicts").bounding_box(), bar.bounding_box()
        assert verdicts
        assert at
        assert verdicts["y"] + verdicts["height"] <= at["y"]
        for name in ("Train", "Judge", "Compare", "Data", "Models", "Rate"):
            target = bar.get_by_role("button", name=name, exact=True)
            if not target.is_visible():
                bar.get_by_role("button", name="More").click()
            target.click()
            page.wait_for_function("id => location.hash === '#' + id", arg=name.lower())
            expect(bar.locator(".rest")).to_be_hidden()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            assert not cramped(page)
        assert not offences(page)


def test_criteria_are_answered_by_keys_and_own_ones_go_again(app: App, store: Store):
    with app.page() as page:
        settle(page)
        page.locator(".pill").click()
        page.fill(".own", "funny")
        page.press(".own", "Enter")
        expect(page.locator(".extras .criterion")).to_have_count(1)
        page.locator(".criteria label", has_text="helpful").locator("input").check()
        page.evaluate("document.activeElement.blur()")
        expect(page.locator(".extras .criterion")).to_have_count(2)
        names = page.locator(".extras .criterion b").all_inner_texts()
        for code in ("Digit1", "Digit2", "Digit2"):
            page.keyboard.press(f"Alt+{code}")
        settle(page)
        page.keyboard.press("4")
        told(page, "Saved: B better")
        said = store.comparisons()[-1].value
        turned = {k: (o if said.left == "a" else o.swap()) for k, o in said.criteria.items()}
        assert turned == {names[0]: Outcome.A, names[1]: Outcome.TIE}
        page.get_by_role("button", name="Remove funny").click()
        expect(page.locator(".criteria label", has_text="funny")).to_have_count(0)
        expect(page.locator(".extras .criterion")).to_have_count(1)
