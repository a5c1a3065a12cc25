"""Models, Data and Compare in a real browser, on the starter base with adapters that change little."""

from __future__ import annotations

import json
import os
import re
import shutil
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.library import CARD, read_saved
from lorarlhf.settings import LoadSettings, LoraSettings
from lorarlhf.types import Comparison, Origin, Outcome, user
from lorarlhf.workspace import Workspace
from tests import tiny
from tests.browser import PATIENCE, App, draw_little, open_tab, ready

EVIL = "<img src=x onerror='document.title=1'> ${alert(2)} {{3*3}} ![x](http://evil.example/x.png)"
SHOWN = EVIL.partition(" ![")[0]
"""What Markdown leaves of it: the text, and a link where a picture would have been fetched."""
SLOW = PATIENCE * 1000


def fill(place: Workspace) -> None:
    """Put adapters of three stages, one of another base, and a few votes into a workspace."""
    bank = AdapterBank(load_base(LoadSettings()))
    parents: dict[str, dict[str, str]] = {}
    for number, (stage, role) in enumerate((("sft", "parent"), ("reward", "parent"), ("ppo", "sft"))):
        bank.create(stage, LoraSettings(rank=4), head=stage == "reward", seed=number)
        bank.load_state(stage, {key: value + 0.01 for key, value in bank.state(stage).items()})
        card = {"stage": stage, "created": f"2026-01-0{number + 1}T10:00:00+00:00", "run": f"{stage}-{number + 1}"}
        card |= {"parents": {role: dict(parents)} if parents else {}, "data": {"comparisons": [1, 2]}}
        bank.save(stage, place.adapters_dir / f"{stage}-1", {**card, "settings": {"rank": 4}, "metrics": {}})
        if stage == "sft":
            parents = {"name": "sft-1", "hash": read_saved(place.adapters_dir / "sft-1").hash}
    other = json.loads((place.adapters_dir / "sft-1" / CARD).read_text())
    other["base"] |= {"fingerprint": "0" * 16, "name": "someone/else"}
    (place.adapters_dir / "foreign").mkdir()
    (place.adapters_dir / "foreign" / CARD).write_text(json.dumps({**other, "hashes": {"adapter": "none"}}))
    with place.store() as store:
        store.add_comparisons(
            Comparison(user(f"Question {n}?"), f"yes {n}", EVIL, Outcome.A, origin=Origin(rater="ann"))
            for n in range(25)
        )
        store.add_comparison(Comparison(user(EVIL), EVIL, EVIL, Outcome.TIE, origin=Origin(rater="bob")))
        store.add_prompts([user("Where is my parcle?")], "mail")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("tabs") / "work").open()
    draw_little(place)
    fill(place)
    with App(place.path) as app:
        yield app


@pytest.fixture
def place(app) -> Workspace:
    return Workspace(app.workspace)


def served(page: Page, app: App, path: object) -> int:
    """Ask for a file of the machine by its path → HTTP status."""
    return page.request.get(f"{app.url}/gradio_api/file={quote(str(path))}").status


def test_an_adapter_is_renamed_exported_imported_and_deleted(app, place, tmp_path):
    with app.page() as page:
        ready(page)
        open_tab(page, "Models")
        rows = page.locator("#adapters tbody tr")
        expect(rows).to_have_count(4)
        expect(page.locator("#adapters tr.other")).to_contain_text("other base")
        expect(page.locator("#memory .bar")).to_have_attribute("aria-label", re.compile("starter .* MB, .*free .* GB"))

        page.click("#adapters [data-name=sft-1]")
        expect(page.locator("#card h3")).to_have_text("sft-1")
        page.fill("#new-name input, #new-name textarea", "ppo-1")
        page.click("#rename")
        expect(page.locator(".toast-body")).to_contain_text("adapter ppo-1 exists already; choose another name")
        page.fill("#new-name input, #new-name textarea", "polite")
        page.click("#rename")
        expect(page.locator("#card h3")).to_have_text("polite")
        expect(page.locator("#adapters tr.chosen")).to_contain_text("polite")
        expect(rows.filter(has_text="ppo-1")).to_contain_text(
            "polite"
        )  # the child names its parent as it is called now

        page.click("#export")
        page.locator("#export-link a").wait_for(timeout=SLOW)
        expect(page.locator("#export-link")).to_contain_text("held-out conversations differ by")
        with page.expect_download() as download:
            page.locator("#export-link a").click()
        zipped = tmp_path / "polite.zip"
        download.value.save_as(zipped)
        assert download.value.suggested_filename == "polite.zip"
        secrets = [place.db, place.path / "engine.log", place.adapters_dir / "polite" / CARD, "/etc/passwd"]
        secrets += [f"{place.exports_dir}/../workspace.db", place.exports_dir]
        assert [served(page, app, path) for path in secrets] == [403] * len(secrets)
        assert served(page, app, place.exports_dir / "polite.zip") == 200

        shutil.unpack_archive(zipped, tmp_path / "elsewhere")
        page.get_by_role("button", name="Import an adapter made elsewhere").click()
        page.get_by_label("Folder or Hub id").fill(str(tmp_path / "elsewhere"))
        page.click("#import-button")
        expect(page.locator("#imported")).to_contain_text("Not imported:", timeout=SLOW)
        page.get_by_label("Folder or Hub id").fill(str(tmp_path / "elsewhere" / "polite"))
        page.click("#import-button")
        expect(page.locator("#imported")).to_contain_text("Imported as ppo-2", timeout=SLOW)
        expect(page.locator("#card h3")).to_have_text("ppo-2")
        page.click("#delete")
        page.click("#delete-yes")
        expect(rows).to_have_count(4)

        page.click("#adapters [data-name=polite]")
        page.click("#delete")
        expect(page.locator("#sure-delete")).to_contain_text("reward-1, ppo-1 came from it")
        page.click("#delete-yes")
        expect(rows).to_have_count(3)
        expect(page.locator("#adapter")).to_be_hidden()
        page.reload()
        open_tab(page, "Models")
        expect(rows).to_have_count(3)
        expect(rows.filter(has_text="ppo-1")).to_contain_text("sft-1 (deleted)")
    assert not (place.adapters_dir / "polite").exists()
    # Another program finds what it wants; that one loads what the app sends is tested in `test_ui_loop`.
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(os.listdir(tmp_path / "elsewhere" / "polite"))


def test_a_base_that_cannot_be_loaded_gives_way_to_the_old_one(app, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "config.json").write_text("{")
    # What only transformers can tell: everything is there, but nobody knows the architecture.
    broken = tiny.save(tmp_path / "broken", arch="llama")
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "model_type": "unheard-of"}))
    with app.page() as page:
        ready(page)
        open_tab(page, "Models")
        page.get_by_text("Advanced").first.click()
        page.locator("#load-remote input").check()
        expect(page.locator("#remote-warning")).to_contain_text("runs Python code")
        page.locator("#load-remote input").uncheck()
        base = page.locator("#load-base input")
        base.fill("/nowhere/at/all")
        base.press("Enter")
        page.click("#load-button")
        # A slip of the pen costs nothing: the engine goes on.
        expect(page.get_by_text("There is no folder /nowhere/at/all").first).to_be_visible()
        expect(page.locator("#status .ready")).to_contain_text("starter")
        page.click("#load-button")
        expect(page.locator("#load-check [role=alert]")).to_contain_text("Nothing was changed")
        base.fill(str(damaged))
        base.press("Enter")
        page.click("#load-button")
        expect(page.locator("#load-check [role=alert]")).to_contain_text("config.json can't be read")
        expect(page.locator("#status .ready")).to_contain_text("starter")
        # Chosen from the list, and what it would take is said before it is loaded.
        page.locator("#found [data-name='starter']").click()
        expect(page.locator("#load-check")).to_contain_text("comes with lorarlhf · 4M parameters · ✓ fits")
        base.fill(str(broken))
        base.press("Enter")
        expect(page.locator("#load-check")).to_contain_text("on this computer")
        page.click("#load-button")
        expect(page.locator("#notice-text")).to_contain_text("back to starter", timeout=SLOW)
        expect(page.locator("#status .ready")).to_contain_text("starter", timeout=SLOW)


def test_data_is_found_mended_brought_in_and_taken_out(app, place, tmp_path):
    with app.page() as page:
        open_tab(page, "Data")
        expect(page.locator("#told")).to_have_text("1–20 of 26")
        page.click("#older")
        expect(page.locator("#told")).to_have_text("21–26 of 26")
        page.fill("#search input, #search textarea", "onerror document.title")
        page.locator("#by-rater input").click()
        page.get_by_role("option", name="bob").click()
        expect(page.locator("#rows li")).to_have_count(1)
        page.click("#rows li button")
        expect(page.locator("#row-whole .reply").first).to_contain_text(SHOWN)
        assert page.locator("#rows img, #row-whole img").count() == 0
        expect(page.locator("#row-verdict input")).to_have_value("Tie")
        page.click("#delete-row")
        expect(page.locator("#told")).to_have_text("No matches")
        page.locator("#by-gone input").check()
        expect(page.locator("#rows li.gone")).to_contain_text("deleted")

        page.locator("#kind input").click()
        page.get_by_role("option", name="Prompts").click()
        page.fill("#search input, #search textarea", "parcle")
        expect(page.locator("#rows li")).to_have_count(1)
        expect(page.locator("#rows li")).to_contain_text("parcle")
        page.click("#rows li button")
        page.fill("#wording textarea", "Where is my parcel?")
        page.click("#save-wording")
        expect(page.locator("#row-whole")).to_contain_text("Where is my parcel?")

        file = tmp_path / "mine.jsonl"
        file.write_text('{"prompt": "one"}\n{"prompt": ""}\n')
        page.set_input_files("#import-file input[type=file]", file)
        expect(page.locator("#import-file")).to_contain_text("mine")
        page.click("#import")
        expect(page.locator("#imported [role=alert]")).to_contain_text(
            "mine.jsonl: 1 bad row, nothing was imported: line 2"
        )
        file.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
        page.set_input_files("#import-file input[type=file]", file)
        expect(page.locator("#import-file")).to_contain_text("mine")
        expect(page.locator("#imported [role=status] p")).to_have_text(
            "mine.jsonl: 2 prompts; read from prompt. Nothing is imported yet."
        )
        expect(page.locator("#imported .rows li")).to_have_count(2)
        page.click("#import")
        expect(page.locator("#imported [role=status]")).to_have_text("mine.jsonl: 2 prompts added")
        expect(page.locator("#data-overview .counts > div").filter(has_text="Prompts")).to_have_text("Prompts3")

        page.click("#export-votes")
        with page.expect_download() as download:
            page.locator("#votes-link a").click()
        lines = download.value.path().read_text().splitlines()
        assert len(lines) == 26 + 2 + 2  # votes, the prompt in both wordings, the imported ones
    with place.store() as store:
        assert [row.value for row in store.prompts("mail")] == [user("Where is my parcel?")]
        assert len(store.comparisons()) == 25


def test_what_was_said_about_other_models_counts_once_it_is_let(app, place):
    with place.store() as store:
        store.belong("another base")
        store.add_comparison(Comparison(user("of another?"), "yes", "no", Outcome.A))
    with app.page() as page:
        ready(page)
        open_tab(page, "Data")
        tile = page.locator("#data-overview .counts dd").first
        with place.store() as store:
            before = store.counts()["comparisons"] - 1
        expect(tile).to_have_text(str(before))
        box = page.get_by_label("Also use what was said about other models: 1 comparison")
        box.check()
        expect(tile).to_have_text(str(before + 1))
        box.uncheck()
        expect(tile).to_have_text(str(before))


def test_adapters_answer_side_by_side_and_chat(app):
    with app.page() as page:
        ready(page)
        open_tab(page, "Compare")
        expect(page.locator("#compare-adapters")).to_contain_text("ppo-1", timeout=SLOW)
        page.fill("#compare-prompt textarea, #compare-prompt input", f"Where is my parcel? {EVIL}")
        page.locator("#judge input").check()
        page.click("#ask")
        panels = page.locator("#answers .panel")
        expect(panels.first).to_contain_text("the base model")
        expect(page.locator("#answers .score")).to_have_count(panels.count(), timeout=SLOW)
        assert panels.count() >= 2
        texts = page.locator("#answers .words").all_inner_texts()
        page.click("#ask")
        expect(page.locator("#answers .score")).to_have_count(0)
        expect(page.locator("#answers .score")).to_have_count(panels.count(), timeout=SLOW)
        assert page.locator("#answers .words").all_inner_texts() == texts  # same seed, same answers

        page.get_by_role("button", name="Sampling").click()
        page.locator("#max-tokens input").fill("4000")
        page.locator("#temperature input").fill("2")
        page.click("#ask")
        # The answers may end by themselves soon: the button is pressed as soon as it can be.
        page.wait_for_function(
            "() => { const b = document.querySelector('#stop-asking'); b.click(); return !b.disabled }"
        )
        expect(page.locator("#ask")).to_be_enabled(timeout=SLOW)
        page.locator("#max-tokens input").fill("32")

        page.get_by_role("tab", name="Chat").click()
        for turn, words in enumerate((EVIL, "And now?")):
            page.fill("#say textarea, #say input", words)
            page.keyboard.press("Enter")
            expect(page.locator("#chat .turn")).to_have_count(2 * turn + 2, timeout=SLOW)
            expect(page.locator("#send")).to_be_enabled(timeout=SLOW)
        expect(page.locator("#chat .turn.user").first).to_contain_text(SHOWN)
        assert page.locator("#chat img, #answers img").count() == 0
        page.click("#bad-answer")
        expect(page.locator("#chat-noted")).to_contain_text("Noted")
        page.click("#clear-chat")
        expect(page.locator("#chat .turn")).to_have_count(0)
