"""The Judge tab in a real browser: measure a reward model, read its figures, vote again, and what PPO makes of it."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise

import pytest
from playwright.sync_api import expect

from lorarlhf import starter
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.settings import LoadSettings, LoraSettings
from lorarlhf.starter import judge
from lorarlhf.ui.judge.looked import LOOKED
from lorarlhf.workspace import Workspace
from tests.browser import PATIENCE, App, cramped, draw_little, open_section, open_tab, ready
from tests.test_ui_app import offences

SLOW = PATIENCE * 1000


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("judge") / "work").open()
    draw_little(place)
    bank, rng = AdapterBank(load_base(LoadSettings())), random.Random(0)
    with place.store() as store:
        told = starter.transcripts()
        some = [judge.compare(a.prompt, a.response, rng.choice(told).response) for a in rng.sample(told, 40)]
        app_made = [replace(one, left=rng.choice("ab"), origin=replace(one.origin, source="app")) for one in some]
        ids = store.add_comparisons(app_made)
        run = store.start_run("reward", "reward-1", "starter", {}, {"data": {}, "adapters": {}})
        store.finish_run(run, "done", {})
    for number, stage in enumerate(("sft", "reward")):
        bank.create(stage, LoraSettings(rank=4), head=stage == "reward", seed=number)
        bank.load_state(stage, {key: value + 0.02 for key, value in bank.state(stage).items()})
        card = {"stage": stage, "created": f"2026-01-0{number + 1}T10:00:00+00:00", "metrics": {}, "parents": {}}
        card |= {"run": run, "settings": {"heldout_share": 0.5}, "data": {"comparisons": ids[:20]}}
        bank.save(stage, place.adapters_dir / f"{stage}-1", card)
    with App(place.path) as app:
        yield app


def looked(app: App) -> list[str]:
    with Workspace(app.workspace).store() as store:
        return list(store.get_meta(LOOKED, {}).values())


def test_a_reward_model_is_measured_read_and_voted_against_and_then_ppo_may_start(app):
    with app.page(high=1000) as page:
        ready(page)
        open_section(page, "Rounds")
        open_tab(page, "Train")
        expect(page.locator("#next-text")).to_contain_text("reward-1 is ready. Check it before PPO")
        page.click("#next-do")
        expect(page.locator("#reward-health")).to_be_visible()  # also where another section was open
        open_tab(page, "Train")
        page.locator("#stages").get_by_role("tab", name="PPO", exact=True).click()
        page.click("#start-ppo")
        expect(page.locator("#look-first-text")).to_contain_text("not looked yet how good reward-1 is", timeout=SLOW)
        page.set_viewport_size({"width": 390, "height": 844})  # on a phone one above the other, all as wide
        places = [page.locator(f"#{id}").bounding_box() for id in ("look-first-text", "look-at-reward", "skip-look")]
        assert len({place["width"] for place in places}) == 1
        assert all(above["y"] + above["height"] <= below["y"] for above, below in pairwise(places))
        page.set_viewport_size({"width": 1280, "height": 1000})
        page.click("#look-at-reward")

        expect(page.locator("#reward-health")).to_contain_text("reward-1 was not measured yet")
        page.wait_for_timeout(1500)
        assert looked(app) == []  # nothing was there to be seen
        page.click("#measure-reward")
        figures = page.locator("#reward-health figure")
        page.get_by_text("All figures").locator("visible=true").wait_for(timeout=SLOW)
        expect(page.locator("#measure-reward")).to_be_hidden(timeout=SLOW)
        page.get_by_text("All figures").locator("visible=true").click()
        for title in (
            "How often it is right",
            "How sure it is",
            "Reward against length",
            "Scores of answers",
            "You: left",
        ):
            expect(figures.filter(has_text=title).first).to_be_visible()
        expect(page.locator("#reward-health h3")).to_contain_text("reward-1 agrees with")
        expect(page.locator("#reward-health .tiles")).to_contain_text("Agrees with your test votes")
        expect(page.locator("#reward-health .against li")).not_to_have_count(0)  # random weights: something is wrong
        page.wait_for_timeout(1000)
        assert looked(app) == ["seen"]
        assert not offences(page)
        assert not cramped(page)

        buttons = page.locator("#contradicted button").locator("visible=true")
        contradicted = page.locator("#contradicted li").count()
        prompt = page.locator("#contradicted .asked").first.inner_text()
        buttons.first.click()
        expect(page.locator("#again-pair .asked").last).to_have_text(prompt)
        assert not offences(page)
        page.click("#again-b1")
        expect(page.locator("#again-told")).to_contain_text("Saved: ")
        expect(page.locator("#again")).to_be_hidden()
        expect(page.locator("#contradicted li")).to_have_count(contradicted - 1)

        page.fill("#hand-prompt textarea", "Where is my parcel?")
        page.fill("#hand-answer textarea", "It left us today.")
        page.click("#hand-score")
        expect(page.locator("#hand-told")).to_contain_text("of the answers voted on", timeout=SLOW)

        page.reload()  # everything is there at once: it is stored
        expect(page.locator("#reward-health h3")).to_contain_text("reward-1 agrees with", timeout=10_000)
        open_tab(page, "Train")
        expect(page.locator("#next-text")).to_contain_text("or try PPO now")
    with Workspace(app.workspace).store() as store:
        assert store.comparisons()[-1].value.repeats


def test_on_a_phone_nothing_is_wider_than_the_screen(app):
    with app.page(wide=390, high=844) as page:
        ready(page)
        open_tab(page, "Judge")
        expect(page.locator("#reward-health h3")).to_contain_text("reward-1", timeout=10_000)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
