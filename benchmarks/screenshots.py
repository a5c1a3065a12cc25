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
from tests.browser import App, open_tab, ready

README = {"rate-light", "train-dark", "compare-light", "models-light", "rate-dark-phone"}
TABS = {"rate": "Rate", "train": "Train", "compare": "Compare", "data": "Data", "models": "Models"}


def show(page: Page, tab: str) -> None:
    """Bring a tab into the state worth a picture."""
    open_tab(page, TABS[tab])
    if tab == "rate":
        page.wait_for_function(
            "() => [...document.querySelectorAll('.rate .text')].filter(e => e.textContent).length > 1"
        )
    if tab == "compare":
        box = page.get_by_role("textbox").locator("visible=true").first
        box.fill("My parcel arrived broken. What now?")
        box.press("Enter")
    page.wait_for_timeout(4000)  # answers are streaming, charts are being drawn


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
                        for tab in TABS:
                            if args.all or f"{tab}-{name}" in README:
                                show(page, tab)
                                page.screenshot(path=args.out / f"{tab}-{name}.png")


if __name__ == "__main__":
    main()
