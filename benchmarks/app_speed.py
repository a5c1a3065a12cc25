"""How soon is the app there? Seconds from the command to the first page and to the first answer, in a real Chromium.

    python -m benchmarks.app_speed [--runs 3]

Asked: the first page at most 2 s later than `import gradio` alone takes on the same machine, the first answer of the
starter base within 15 s. Run it on an idle machine; prints one JSON value with the median of each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser import CHROMIUM, App

ASKED = {"page_after_import_gradio": 2.0, "first_answer": 15.0}


def import_gradio() -> float:
    """Time `import gradio` in a fresh process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import gradio"], check=True)
    return time.perf_counter() - began


def one_start(workspace: Path) -> dict[str, float]:
    """Start the app once → seconds from the command to each milestone."""
    with sync_playwright() as playwright:
        # The browser is open already, as a person's is.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        app = App(workspace)
        try:
            began = time.perf_counter()
            app.start()
            served = time.perf_counter() - began
            urllib.request.urlopen(app.url).read()
            page_sent = time.perf_counter() - began
            page.goto(app.url)
            page.wait_for_selector("#status")
            drawn = time.perf_counter() - began
            page.wait_for_selector("#status .ready, #status .working", timeout=60_000)
            loaded = time.perf_counter() - began
            page.wait_for_function(
                "() => [...document.querySelectorAll('.rate .answer .text')].some(e => e.textContent.trim())",
                timeout=60_000,
            )
            answered = time.perf_counter() - began
        finally:
            browser.close()
            app.end()
    return {"served": served, "page": page_sent, "drawn": drawn, "base_loaded": loaded, "first_answer": answered}


def main() -> None:
    """Start the app several times, each in a workspace of its own, in turn with `import gradio`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    runs = parser.parse_args().runs
    imports, starts = [], []
    for _ in range(runs):
        imports.append(import_gradio())
        with tempfile.TemporaryDirectory() as folder:
            starts.append(one_start(Path(folder) / "work"))
    median = {name: statistics.median(start[name] for start in starts) for name in starts[0]}
    gradio = statistics.median(imports)
    found = {
        "import_gradio": gradio,
        **median,
        "page_after_import_gradio": median["page"] - gradio,
    }
    print(
        json.dumps(
            {
                "asked": ASKED,
                "seconds": {name: round(value, 2) for name, value in found.items()},
                "holds": {name: found[name] <= limit for name, limit in ASKED.items()},
                "runs": runs,
                "cores": os.cpu_count(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
