"""The first hour in a real browser, from an empty workspace: how many clicks and words it takes, and where it leads."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from lorarlhf import starter
from lorarlhf.starter import judge
from lorarlhf.workspace import Workspace
from tests.browser import PATIENCE, App, cramped, ready
from tests.test_ui_app import offences
from tests.test_ui_rate_browser import settle, told

LONG = PATIENCE * 1000
WORDS = """() => {
  const apart = '.prompt, .answer .text, .beyond, .sr, .visually-hidden, kbd, [hidden]', found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (node.closest(apart + ', script, style, option')) continue;
    if (!node.checkVisibility({ checkVisibilityCSS: true })) continue;
    const box = node.getBoundingClientRect();
    if (!box.width || box.top >= innerHeight || box.bottom <= 0 || getComputedStyle(node).fontSize === '0px') continue;
    found.push(...walk.currentNode.textContent.split(/\\s+/).filter((word) => /\\p{L}/u.test(word)));
  }
  return found;
}"""
"""Words with a letter that can be seen in the window; those of the pair, and keys on buttons, do not count."""


class Clicks:
    """A hand that counts what it presses."""

    def __init__(self, page: Page) -> None:
        self.page, self.count = page, 0

    def press(self, where: str) -> None:
        self.count += 1
        self.page.locator(where).locator("visible=true").first.click(timeout=LONG)


@pytest.mark.parametrize(("wide", "high", "theme"), [(1280, 800, "light"), (390, 844, "dark")])
def test_from_nothing_to_the_first_vote_in_few_words_and_one_press(tmp_path: Path, wide: int, high: int, theme: str):
    with App(tmp_path / "work") as app, app.page(wide=wide, high=high, theme=theme) as page:
        settle(page)
        expect(page.locator(".welcome")).to_contain_text("Teach a small shop assistant manners.")
        expect(page.locator(".question")).to_have_text("Which answer is better?")
        assert page.locator(".prompt .turn").count() == 1  # a single question, no conversation
        words = page.evaluate(WORDS)
        assert len(words) <= 40, " ".join(words)
        assert not offences(page)
        assert not cramped(page)
        hand = Clicks(page)
        hand.press(".verdicts [data-do=a1]")
        assert hand.count == 1
        told(page, "Saved: A better")
        # From then on all the rest is there.
        expect(page.locator(".modes")).to_be_visible()
        expect(page.locator(".verdicts [data-do=skip]")).to_be_visible()
        with Workspace(app.workspace).store() as store:
            assert store.counts()["comparisons"] == 1


def rated(folder: Path, votes: int) -> Path:
    """Rate as a person of good manners would, who decides fast."""
    place = Workspace(folder / "work").open()
    rng, said = random.Random(0), starter.transcripts()
    with place.store() as store:
        some = [(one, rng.choice(said)) for one in rng.sample(said, votes)]
        store.add_comparisons(judge.compare(a.prompt, a.response, b.response) for a, b in some)
    return place.path


def hasten(page: Page) -> None:
    """Make the stages so short that they take seconds here; a person leaves this fold shut."""
    stages = page.locator("#stages")
    for stage, values in (("Reward model", {"Epochs": 1}), ("PPO", {"Steps": 6, "Batch size": 8, "Eval every": 3})):
        stages.get_by_role("tab", name=stage, exact=True).click()
        panel = stages.get_by_role("tabpanel").filter(has=page.locator(".effort").locator("visible=true"))
        panel.get_by_role("button", name="Settings").click()
        for label, value in values.items():
            field = panel.get_by_label(label, exact=True).or_(panel.get_by_role("textbox", name=label)).first
            field.fill(str(value))
            field.blur()


def test_from_fifty_votes_to_before_and_after_and_an_export_by_few_clicks(tmp_path: Path):
    with App(rated(tmp_path, 60)) as app, app.page() as page:
        ready(page)
        hand = Clicks(page)
        hand.press(".way button:has-text('Reward model')")
        page.wait_for_selector("#next-text .lead")
        hasten(page)
        hand.press("#align-go")
        expect(page.locator("#align .now, #align .done").first).to_be_visible(timeout=LONG)
        assert hand.count == 2  # training has begun
        expect(page.locator("#align h3")).to_have_text("Align for me: done", timeout=LONG)
        # Before and after is there by itself.
        card = page.locator("#run-after .end-card")
        expect(card).to_be_visible(timeout=LONG)
        expect(card.locator(".pair").locator("visible=true")).to_have_count(3)
        assert hand.count == 2
        page.wait_for_timeout(500)
        assert not offences(page)
        assert not cramped(page)
        hand.press("#run-after button:has-text('Export')")
        expect(page.locator("#card")).to_contain_text("ppo-1")
        hand.press("#export")
        expect(page.locator("#export-link .verified")).to_contain_text("Verified", timeout=LONG)
        with page.expect_download() as saved:
            hand.press("#export-link a.download")
        assert saved.value.suggested_filename == "ppo-1.zip"
        assert hand.count == 5  # three more
        # The journey leads to the blind test that lies ready, and its names are not told.
        hand.press(".way button:has-text('Blind test')")
        page.wait_for_selector(".duel[data-state=ready]", timeout=LONG)
        expect(page.locator(".duel .names")).to_have_text("ppo-1 against base")
