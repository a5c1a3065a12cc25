"""The Train tab in a real browser: a run is started, watched, reloaded upon, stopped, resumed and done."""

from __future__ import annotations

import csv
import re

import pytest

from lorarlhf.data.importing import import_file
from lorarlhf.starter import shipped_file
from lorarlhf.workspace import Workspace
from tests.browser import PATIENCE, App, draw_little, open_tab, ready

LONG = PATIENCE * 1000
HEAD, FAST = "#run-head", "document.querySelector('#run-head .way').innerText"


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("train") / "work").open()
    draw_little(place)
    with place.store() as store:
        import_file(store, shipped_file("demonstrations"), "demonstrations")
    with App(place.path) as app:
        yield app


def opened(page):
    """Open the tab and wait until it says what to do next."""
    ready(page)
    open_tab(page, "Train")
    page.wait_for_selector("#next-text .lead")
    page.locator("#stages").get_by_role("tab", name="SFT", exact=True).click()


def step(page) -> int:
    return int(re.search(r"step ([\d,]+)", page.inner_text(f"{HEAD} .way"))[1].replace(",", ""))


def wait_for_step(page, least: int) -> None:
    page.wait_for_function(f"Number(/step (\\d+)/.exec({FAST})[1]) >= {least}", timeout=LONG)


def field(page, label: str):
    form = page.locator("#form-column")
    # The name of a text field ends with its help.
    return form.get_by_label(label, exact=True).or_(form.get_by_role("textbox", name=label)).locator("visible=true")


def unfold(page) -> None:
    page.locator("#form-column").get_by_role("button", name="Settings").locator("visible=true").click()


def look_at_cost(page) -> None:
    """What a run would take is there before the start, its time too, and each effort says its own."""
    cost = page.locator("#cost-sft")
    cost.locator(".bar").wait_for(timeout=LONG)
    assert re.search(r"Needs [\d.]+ [GM]B of [\d.]+ GB, most of it while ", cost.inner_text())
    page.wait_for_selector("#cost-sft p:has-text('Time: about')", timeout=LONG)
    page.wait_for_selector("#form-column .effort:visible label:has-text('Quick · about')")


def test_a_run_is_started_watched_reloaded_upon_stopped_and_resumed(app):
    with app.page() as page:
        opened(page)
        # On the starter, which was made from its demonstrations, votes are what comes next.
        page.wait_for_selector("#next-do:has-text('Rate answers')")

        unfold(page)
        # A wrong value is one line that names its field, and starts nothing.
        field(page, "Learning rate").fill("-1")
        page.locator("#start-sft").click()
        page.wait_for_selector("#form-column .problem:has-text(\"Learning rate = '-1': should be greater than 0\")")
        assert page.locator("#runs li").count() == 0

        look_at_cost(page)
        # The plan follows the form.
        field(page, "Learning rate").fill("0.001")
        field(page, "Batch size").fill("4")
        field(page, "Epochs").fill("0.4")
        page.wait_for_selector("#form-column p.plan:visible:has-text('About 72 steps')")
        page.wait_for_selector("#changed-sft p:has-text('3 settings changed: Learning rate 0.001, Batch size 4')")
        field(page, "Name of the new adapter").fill("manners")

        # Started; the page shows its charts as they grow.
        page.click("#start-sft")
        page.wait_for_selector(f"{HEAD} .pill.running", timeout=LONG)
        assert page.locator("#form-column .problem").count() == 0
        wait_for_step(page, 3)
        with app.held():
            assert "manners (run sft-1) is training" in page.inner_text("#next-text")
            assert "left" in page.inner_text(f"{HEAD} .way")
            assert page.locator("#start-sft").is_disabled()
            assert page.locator("#run-charts figure:has-text('Loss') path.main").count() > 0

            # Reloaded, and looked at by somebody else: the same run is still drawing.
            page.reload()
            opened(page)
            page.wait_for_selector(f"{HEAD} h3:has-text('manners run sft-1')")
            phone = page.context.browser.new_page(viewport={"width": 390, "height": 844})
            phone.goto(app.url)
            opened(phone)
            wait_for_step(phone, 3)
            before = step(phone)
            assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        for one in (page, phone):
            wait_for_step(one, before + 1)

        # Stopped by one, it is stopped for both, and saved.
        with app.held():
            page.get_by_role("button", name="Stop and save").click()
            page.wait_for_selector("#next-text:has-text('is being stopped')")
        for one in (page, phone):
            one.wait_for_selector(f"{HEAD} .pill.paused", timeout=LONG)
            one.wait_for_selector("#next-do:has-text('Resume it')")
        # Where there is room for one column, what one does stands before what one sees.
        tops = [phone.locator(f"#{name}").bounding_box()["y"] for name in ("next-step", "start-sft", "run-head")]
        assert tops == sorted(tops)
        assert tops[-1] < phone.locator("#run-charts").bounding_box()["y"]
        phone.close()
        stopped = step(page)
        assert before < stopped < 72
        assert (app.workspace / "runs" / "sft-1" / f"step-{stopped:06d}").is_dir()

        # Resumed from the list, it goes on to its end.
        page.locator("#runs button[data-do=resume]").click()
        page.wait_for_selector(f"{HEAD} .pill.done", timeout=LONG)
        assert "Test loss" in page.inner_text(f"{HEAD} .outcome")
        page.wait_for_selector("#runs .said:has-text('Test loss')")
        assert page.locator("#run-log li:has-text('saved step')").count() == 1
        page.wait_for_selector("#next-text:has-text('No votes yet: rate 50 answers')")
        page.wait_for_selector("#start-sft:enabled")

        # A name that is taken is refused; the next step leads to the tab where it is done.
        field(page, "Name of the new adapter").fill("manners")
        page.locator("#start-sft").click()
        page.wait_for_selector("#form-column .problem:has-text('manners exists already')")
        page.get_by_role("tab", name="Reward model").click()
        page.wait_for_selector("#form-column p.plan:visible:has-text('No votes that prefer an answer yet')")
        assert page.locator("#start-reward").is_disabled()
        page.click("#next-do")
        page.wait_for_selector("[role=tab][aria-selected=true]:has-text('Rate')")


def queued(page, name: str, rank: int) -> None:
    field(page, "Name of the new adapter").fill(name)
    field(page, "Rank").fill(str(rank))
    field(page, "Epochs").fill("0.1")
    page.locator("#queue-sft").click()


def test_stages_queue_up_and_their_runs_are_compared_and_saved(app, tmp_path):
    with app.page() as page:
        opened(page)
        unfold(page)
        # The first starts at once; the others wait, can be seen and taken out, and follow by themselves.
        waiting = page.locator("#queue li")
        with app.held():
            queued(page, "narrow", 4)
            page.wait_for_selector("#next-text:has-text('about to start')")
            queued(page, "wide", 8)
            page.wait_for_selector("#queue li:has-text('wide')")
            queued(page, "mistake", 2)
            page.wait_for_selector("#queue li:has-text('mistake')")
            page.locator("#queue li:has-text('mistake') button").click()
            page.wait_for_selector("#queue li:has-text('mistake')", state="detached")
            assert waiting.count() == 2
        page.wait_for_selector("#runs li:has-text('wide') .pill.done", timeout=LONG)
        assert waiting.count() == 0
        assert page.locator("#runs li:has-text('narrow') .pill.done").count() == 1
        # That the one before is done was no news any more when this one began.
        page.wait_for_selector("#notice-text:has-text('wide is done')")
        assert page.locator("#notice:visible").count() == 1

        # Both over each other, with the one setting in which they differ.
        page.locator("#runs button.name:has-text('wide')").click()
        page.wait_for_selector(f"{HEAD} h3:has-text('wide')")
        page.locator("#run-charts .compare button:has-text('narrow')").click()
        loss = page.locator("#run-charts figure:has-text('Loss')").first
        loss.locator("path.run1").first.wait_for()
        assert "narrow" in loss.locator("figcaption").inner_text()
        page.get_by_role("button", name="Settings that differ").click()
        page.wait_for_selector(".run-table tbody th:has-text('rank')")
        assert page.locator(".run-table:visible tbody tr").all_inner_texts() == ["rank\t8\t4"]
        page.locator("#run-charts .all").check()
        page.wait_for_selector("#run-charts figure:has-text('grad_norm/sft')")

        # Saved, the table has the very numbers of the rows.
        for kind in ("csv", "png"):
            with page.expect_download() as saved:
                page.locator(f"#run-charts [data-save={kind}]").click()
            saved.value.save_as(tmp_path / kind)
        with Workspace(app.workspace).store() as store:
            runs = {run.adapter: run.id for run in store.runs()}
            (first, *_) = [value for _, name, value in store.metrics(runs["narrow"]) if name == "loss/sft"]
        rows = list(csv.DictReader((tmp_path / "csv").open()))
        assert {row["run"] for row in rows} == {runs["wide"], runs["narrow"]}
        (row,) = [row for row in rows if (row["run"], row["step"]) == (runs["narrow"], "1")]
        assert float(row["loss/sft"]) == first
        assert (tmp_path / "png").read_bytes()[1:4] == b"PNG"
