"""Drive the shipped app: the real command in its own process, a real Chromium in front of it.

    with App(folder) as app, app.page() as page: ...

The process is forked from one that has imported everything (`tests.warm`), unless it is to start from nothing: `cold`.

A page fails its test when it logs an error, or asks any other host for anything.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from lorarlhf.engine.requests import LOG
from lorarlhf.ui.rate.preferences import Preferences, save_preferences
from lorarlhf.workspace import Workspace
from tests.warm import APP, WarmCommand

PATIENCE = 180.0
"""Seconds; two processes import torch and Gradio on a machine that may be busy."""
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), "")


GRADIO_LEFT = ("AbortError: signal is aborted", "Unexpected error Connection errored out")
"""What Gradio logs where a page is left or reloaded while it waits for a reply."""


class App:
    """The app as a person starts it, on a workspace of its own."""

    def __init__(self, workspace: Path, cold: bool = False) -> None:
        self.workspace, self.cold = workspace, cold
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._ways_out = ExitStack()
        self._browser: Browser | None = None

    def __enter__(self) -> App:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self._ways_out.close()
        self.end()

    def start(self) -> App:
        """Start the command and wait until the page is served."""
        self.began = time.monotonic()
        words = ["ui", "--no-browser", "--port", str(self.port), "--workspace", str(self.workspace)]
        self.process: subprocess.Popen[bytes] | WarmCommand
        self.log = self.workspace.parent / f"{self.workspace.name}-app.log"
        with self.log.open("a") as log:
            if self.cold:
                command = [sys.executable, "-m", "lorarlhf.cli", *words]
                self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            else:
                self.process = WarmCommand(words, log, log, needs=APP)
        while not self.served():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() - self.began < PATIENCE, self.log.read_text()
            time.sleep(0.05)
        return self

    def served(self) -> bool:
        """Tell whether the address it prints answers."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0 and " is at http" in self.log.read_text()

    def engine(self) -> psutil.Process:
        """Find the engine's process: it leads a session, and what it prints goes to the engine's log."""
        log, found = str(Workspace(self.workspace).path / LOG), []
        for process in psutil.process_iter():
            with suppress(OSError):
                if os.readlink(f"/proc/{process.pid}/fd/2") == log and os.getsid(process.pid) == process.pid:
                    found.append(process)
        (engine,) = found
        return engine

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let the engine stand still: what it works at takes no time, and is not over before a page has shown it."""
        engine = self.engine()
        engine.suspend()
        try:
            yield
        finally:
            engine.resume()

    def end(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the app as Ctrl-C does, or otherwise, and wait for it."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(PATIENCE)

    @property
    def browser(self) -> Browser:
        """The browser of this app's pages, started for the first of them: that takes longer than a page does."""
        if self._browser is None:
            assert CHROMIUM, f"the browser tests want one of {', '.join(BROWSERS)}; on Debian: apt install chromium"
            playwright = self._ways_out.enter_context(sync_playwright())
            self._browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
            )
            self._ways_out.callback(self._browser.close)
        return self._browser

    @contextmanager
    def page(self, *, wide: int = 1280, high: int = 800, theme: str = "light", **context: Any) -> Iterator[Page]:
        """Open a page as a new visitor, with nothing of the last one's, and check at the end that it behaved."""
        with self.browser.new_context(viewport={"width": wide, "height": high}, **context) as visitor:
            page = visitor.new_page()
            page.set_default_timeout(30_000)
            problems: list[str] = []
            page.on("pageerror", lambda error: problems.append(f"error: {error}"))
            page.on("console", lambda line: problems.append(line.text) if is_error(line) else None)
            page.on("request", lambda r: problems.append(f"asked {r.url}") if self.foreign(r.url) else None)
            page.goto(f"{self.url}/?__theme={theme}")
            page.wait_for_selector("#status")
            yield page
        assert not problems, problems

    def foreign(self, url: str) -> bool:
        """Tell whether a request leaves the app."""
        return not url.startswith((self.url, "data:", "blob:", "about:"))


def draw_little(place: Workspace) -> None:
    """Keep the answers short that lie ready on the Rate tab, for tests of other tabs: every app opens with it."""
    with place.store() as store:
        save_preferences(store, Preferences(max_new_tokens=4))


def is_error(line: ConsoleMessage) -> bool:
    """Tell whether a line of the console is an error of the app's."""
    return line.type == "error" and not any(words in line.text for words in GRADIO_LEFT)


def ready(page: Page) -> None:
    """Wait until the base answers."""
    page.wait_for_selector("#status .ready, #status .working", timeout=PATIENCE * 1000)


def open_tab(page: Page, name: str) -> None:
    """Go to a tab by its name; a narrow page keeps the last ones in a menu."""
    bar = page.locator(".bottom-bar")
    page.locator("#tabs > .tab-wrapper").or_(bar).locator("visible=true").first.wait_for()
    if bar.is_visible():
        if not bar.get_by_role("button", name=name).is_visible():
            bar.get_by_role("button", name="More").click()
        bar.get_by_role("button", name=name).click()
        return
    tab = page.get_by_role("tab", name=re.compile(f"^{name}"))
    if tab.locator("visible=true").count():
        tab.locator("visible=true").click()
    else:
        page.locator(".overflow-menu > button").first.click()
        page.locator(".overflow-dropdown button", has_text=name).click()


def open_section(page: Page, name: str) -> None:
    """Go to a section of the Judge tab; a narrow page keeps the last ones in a menu."""
    open_tab(page, "Judge")
    sections = page.locator("#judge-sections")
    sections.locator("[role=tab]").locator("visible=true").first.wait_for()
    page.wait_for_timeout(300)  # until those that find no room have gone into the menu
    tab = sections.get_by_role("tab", name=name).locator("visible=true")
    if tab.count():
        tab.click()
    else:
        sections.locator(".overflow-menu > button").first.click()
        sections.locator(".overflow-dropdown button", has_text=name).click()


CRAMPED = """() => {
  const found = [], seen = (node) => node.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
  const hides = (style) => ['hidden', 'clip'].includes(style.overflowX) && style.textOverflow !== 'ellipsis';
  for (const node of document.querySelectorAll('body *')) {
    if (node.closest('svg, .sr, [aria-hidden=true], option') || !seen(node) || !node.clientWidth) continue;
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (own && node.clientWidth > 1 && hides(getComputedStyle(node)) && node.scrollWidth > node.clientWidth + 1)
      found.push(`cut: ${node.textContent.trim().slice(0, 60)}`);
    const words = own && node.textContent.trim().length > 1;
    const box = words && node.closest('button, td, th, figcaption, .tiles > div, .node');
    if (box && node !== box && node.getBoundingClientRect().right > box.getBoundingClientRect().right + 2)
      found.push(`out of its box: ${node.textContent.trim().slice(0, 60)}`);
  }
  for (const label of document.querySelectorAll('svg text')) {
    const chart = label.closest('svg').getBoundingClientRect(), own = label.getBoundingClientRect();
    if (seen(label) && own.width && (own.left < chart.left - 1 || own.right > chart.right + 1))
      found.push(`axis label cut: ${label.textContent}`);
  }
  return [...new Set(found)];
}"""


def cramped(page: Page) -> list[str]:
    """List the texts that are cut, stand out of their box, or are labels of a chart beyond its edge."""
    return list(page.evaluate(CRAMPED))


def free_port() -> int:
    """Find a port nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
