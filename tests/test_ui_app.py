"""The app as a whole, in a real browser: it opens, anybody can read it, and it ends leaving nothing behind."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

from lorarlhf import starter
from lorarlhf.data.importing import import_file
from lorarlhf.starter import judge
from lorarlhf.workspace import Workspace
from tests.browser import App, cramped, open_tab, ready

TABS = ("Rate", "Train", "Judge", "Compare", "Data", "Models")
STANDARD = ["wcag2a", "wcag2aa"]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("app") / "work").open()
    with place.store() as store:
        import_file(store, starter.shipped_file("prompts"), "prompts")
        told = starter.transcripts()[:40]
        store.add_comparisons(judge.compare(a.prompt, a.response, b.response) for a, b in pairwise(told))
        run = store.start_run("ppo", "ppo-1", "starter", {}, {"adapters": {}, "data": {}, "base": {}})
        for step in range(1, 20):
            store.log_metrics(
                run, step, {"objective/scores": step / 10, "objective/kl": step / 5, "policy/entropy": 0.3}
            )
        store.finish_run(run, "done", {"eval/scores": 2.0, "eval/kl": 4.0})
    with App(place.path, cold=True) as running:
        yield running


def offences(page: Page) -> list[str]:
    """List what the page in front of us owes the standard."""
    found = Axe().run(page, options={"runOnly": STANDARD}).response["violations"]
    return [f"{rule['help']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_tab_opens_without_an_error_or_the_network_and_keeps_wcag_aa(app, theme):
    with app.page(theme=theme) as page:
        ready(page)
        for name in TABS:
            open_tab(page, name)
            page.wait_for_timeout(1500)  # what the tab shows is fetched, and fades in
            assert not offences(page), name
            assert not cramped(page), name


def test_a_reload_comes_back_to_the_tab(app):
    with app.page() as page:
        ready(page)
        open_tab(page, "Data")
        page.wait_for_function("() => location.hash === '#data'")
        page.reload()
        page.wait_for_selector("[role=tab][aria-selected=true]:has-text('Data')")


def test_it_can_be_installed_as_a_desktop_app(app):
    manifest = json.load(urllib.request.urlopen(f"{app.url}/manifest.json"))
    assert manifest["display"] == "standalone"
    for icon in manifest["icons"]:
        assert urllib.request.urlopen(app.url + "/" + icon["src"].lstrip("/")).status == 200


@pytest.mark.parametrize("name", ["workspace.db", "engine.log", "app.json"])
def test_files_outside_the_exports_are_not_served(app, name):
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{app.url}/gradio_api/file={app.workspace / name}")
    assert refused.value.code in (403, 404)


def test_a_foreign_page_is_refused(app):
    request = urllib.request.Request(f"{app.url}/config", headers={"Origin": "http://evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 403


def test_a_second_app_refuses_and_ctrl_c_ends_both_processes(app):
    second = App(app.workspace, cold=True)
    with pytest.raises(AssertionError, match=f"open in another app at {app.url}"):
        second.start()
    assert second.process.returncode == 1
    engine, maps = app.engine(), Path(f"/proc/{app.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    app.end()
    assert app.process.returncode == 0
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
