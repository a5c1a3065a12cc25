"""Take the pictures of the README from the running app, filled the way an evening of rating leaves it.

    python -m benchmarks.screenshots [--workspace DIR] [--all --out FOLDER]

Without a workspace it goes round the loop first, with the scripted rater (some minutes). `--all` takes every tab in
both themes and at phone width, to look at.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page

from lorarlhf.engine.demo import run_demo
from lorarlhf.workspace import Workspace
from tests.browser import App, open_section, open_tab, ready

README = {"rate-light", "train-dark", "judge-light", "duel-dark", "compare-light", "models-light", "rate-dark-phone"}
TABS = {"rate": "Rate", "train": "Train", "compare": "Compare", "data": "Data", "models": "Models"}
SECTIONS = {"judge": "Reward model", "policy": "Policy", "gain": "What PPO could gain", "duel": "Blind comparison"}
SECTIONS |= {"rounds": "Rounds"}
BLIND_VOTES = 6
SLOW = 120_000


def show(page: Page, tab: str) -> None:
    """Bring a tab, or a section of Judge, into the state worth a picture."""
    if tab in SECTIONS:
        open_section(page, SECTIONS[tab])
    else:
        open_tab(page, TABS[tab])
    measure = {"judge": "#measure-reward", "policy": "#measure-policy", "gain": "#try-best-of"}.get(tab)
    page.wait_for_timeout(1500)
    if measure and page.locator(measure).is_visible() and "again" not in page.locator(measure).inner_text():
        page.click(measure)
        page.locator(".health .light").locator("visible=true").wait_for(timeout=SLOW)
    if tab == "duel":
        vote_blind(page)
    if tab == "rate":
        page.wait_for_function(
            "() => [...document.querySelectorAll('.rate .text')].filter(e => e.textContent).length > 1"
        )
    if tab == "compare":
        box = page.get_by_role("textbox").locator("visible=true").first
        box.fill("My parcel arrived broken. What now?")
        box.press("Enter")
    page.wait_for_timeout(4000)  # answers are streaming, charts are being drawn


def vote_blind(page: Page) -> None:
    """Begin a blind comparison, or go on with one, and prefer the longer answer: somebody has to be ahead."""
    begin = page.locator(".duel [data-do=begin]")
    if begin.is_visible():
        begin.click()
    for _ in range(BLIND_VOTES):
        page.wait_for_selector(".duel[data-state=ready]", timeout=SLOW)
        a, b = (len(text) for text in page.locator(".duel .answer .text").all_inner_texts())
        before = page.get_attribute(".duel", "data-sheet")
        page.keyboard.press("2" if a > b else "4" if b > a else "3")
        page.wait_for_function("id => document.querySelector('.duel').dataset.sheet !== id", arg=before)
    page.wait_for_selector(".duel[data-state=ready]", timeout=SLOW)


def main() -> None:
    """Parse the arguments and take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, help="a workspace with votes and runs; it is copied first")
    parser.add_argument("--all", action="store_true", help="not only those of the README")
    parser.add_argument("--out", type=Path, default=Path("ui/screenshots"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "work"
        made = args.workspace or Path(run_demo(Workspace(Path(folder) / "demo"))["workspace"])
        shutil.copytree(made, place, ignore=shutil.ignore_patterns("app.lock", "app.json"))
        with App(place) as app:
            for theme in ("light", "dark"):
                for wide, high, name in ((1280, 800, theme), (390, 844, f"{theme}-phone")):
                    with app.page(theme=theme, wide=wide, high=high) as page:
                        ready(page)
                        for tab in (*TABS, *SECTIONS):
                            if args.all or f"{tab}-{name}" in README:
                                show(page, tab)
                                page.screenshot(path=args.out / f"{tab}-{name}.png")


if __name__ == "__main__":
    main()
