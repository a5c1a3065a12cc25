"""Measure in a real Chromium how long a person who rates waits; print one JSON value.

python -m benchmarks.rating_speed [VOTES] [SECONDS]

Votes by key on the starter base, reading each pair for SECONDS. Measured is the time from the key's event to the
frame that shows the next pair, vote on disk, where that pair was drawn already; and how long it took to be whole
where it was not. Asked: at most 150 ms.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.browser import App

WATCH = """() => {
    const root = document.querySelector(".rate");
    const whole = () => [...root.querySelectorAll(".answer")].every((box) => box.getAttribute("aria-busy") === "false");
    addEventListener("keydown", (event) => { window.pressed = event.timeStamp; window.next = null; }, true);
    new MutationObserver(() => {
        const sheet = root.dataset.sheet;
        if (!sheet || sheet === window.sheet) return;
        window.sheet = sheet;
        const ready = whole();
        // Two frames on, the first of them is on the screen.
        const note = (now) => { window.next = { ms: now - window.pressed, ready }; };
        requestAnimationFrame(() => requestAnimationFrame(note));
    }).observe(root, { attributes: true, attributeFilter: ["data-sheet"] });
    window.sheet = root.dataset.sheet;
}"""


def main(votes: int = 40, seconds: float = 2.0) -> dict[str, Any]:
    """Rate so many pairs in a fresh workspace."""
    seen: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, App(Path(folder) / "work") as app, app.page() as page:
        ready = ".rate[data-state=ready]"
        page.wait_for_selector(ready, timeout=120_000)
        page.evaluate(WATCH)
        for _ in range(votes):
            page.wait_for_timeout(seconds * 1000)
            page.keyboard.press("2")
            page.wait_for_function("window.next")
            seen.append(page.evaluate("window.next"))
            page.wait_for_selector(ready, timeout=120_000)
            seen[-1]["whole"] = page.evaluate("performance.now() - window.pressed")
    fast = sorted(one["ms"] for one in seen if one["ready"])
    late = [one["whole"] / 1000 for one in seen if not one["ready"]]
    return {
        "votes": votes,
        "reading_seconds": seconds,
        "next_pair_ready": len(fast),
        "key_to_next_pair_ms": round(statistics.median(fast), 1) if fast else None,
        "slowest_ms": round(fast[-1], 1) if fast else None,
        "asked_ms": 150,
        "waited_seconds": round(sum(late), 2),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }


if __name__ == "__main__":
    given = [float(value) for value in sys.argv[1:]]
    print(json.dumps(main(*([int(given[0]), *given[1:]] if given else []))))
