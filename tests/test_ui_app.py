"""The app as a whole, in a real browser: it opens, guards itself, and ends without leaving anything behind."""

from __future__ import annotations

from tests.browser import App, open_tab, ready


def test_every_tab_opens_without_an_error_and_without_the_network(tmp_path):
    with App(tmp_path / "work") as app:
        with app.page() as page:
            ready(page)
            for name in ("Train", "Compare", "Data", "Base and adapters", "Rate"):
                open_tab(page, name)
                page.wait_for_timeout(200)
        engine = app.engine()
    assert app.process.returncode == 0
    assert not engine.is_running()
