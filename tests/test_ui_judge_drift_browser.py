"""Drift, best of n and rounds in a real browser: measured, read in both themes, there after a reload; and gone back."""

from __future__ import annotations

import random
import re

import pytest
from playwright.sync_api import expect

from lorarlhf import starter
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.data.importing import import_file
from lorarlhf.settings import LoadSettings, LoraSettings
from lorarlhf.starter import judge
from lorarlhf.workspace import Workspace
from tests.browser import PATIENCE, App, cramped, draw_little, open_section, open_tab, ready
from tests.test_ui_app import offences

SLOW = PATIENCE * 1000


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("drift") / "work").open()
    draw_little(place)
    bank, rng = AdapterBank(load_base(LoadSettings())), random.Random(0)
    with place.store() as store:
        import_file(store, starter.shipped_file("prompts"), "prompts")
        told = starter.transcripts()
        store.add_comparisons(
            judge.compare(a.prompt, a.response, rng.choice(told).response) for a in rng.sample(told, 40)
        )
    parents = {}
    for number, (stage, noise) in enumerate((("sft", 0.0), ("reward", 0.01), ("ppo", 0.02))):
        bank.create(stage, LoraSettings(rank=4), head=stage == "reward", seed=number)
        bank.load_state(stage, {key: value + noise for key, value in bank.state(stage).items()})
        card = {
            "stage": stage,
            "created": f"2026-01-0{number + 1}",
            "metrics": {"eval/kl": 4.6} if stage == "ppo" else {},
            "parents": dict(parents),
            "data": {},
        }
        settings = {"heldout_share": 0.1, "max_new_tokens": 24} if stage == "ppo" else {"heldout_share": 0.1}
        bank.save(stage, place.adapters_dir / f"{stage}-1", card | {"run": "", "settings": settings})
        parents[stage] = {"name": f"{stage}-1", "hash": bank_hash(place, f"{stage}-1")}
    with App(place.path) as app:
        yield app


def bank_hash(place: Workspace, name: str) -> str:
    from lorarlhf.library import read_saved

    return read_saved(place.adapters_dir / name).hash


def test_a_policy_is_measured_and_best_of_n_tried_out(app):
    with app.page(high=1000) as page:
        ready(page)
        open_section(page, "Policy")
        expect(page.locator("#drift")).to_contain_text("ppo-1 was not measured yet")
        page.click("#measure-policy")
        expect(page.locator("#drift h3")).to_contain_text(re.compile("ppo-1 (gained|lost) .* sft-1"), timeout=SLOW)
        expect(page.locator("#drift .tiles")).to_contain_text("KL from the start")
        assert not offences(page)
        page.get_by_text("All figures").locator("visible=true").click()
        expect(page.locator("#drift svg")).to_be_visible()
        expect(page.locator("#drift table.changes")).to_contain_text("easy questions known, of 40")
        expect(page.locator("#measure-policy")).to_contain_text("Measure again")
        page.mouse.move(0, 0)
        page.wait_for_timeout(1000)  # a button that can be pressed again fades in
        assert not offences(page)

        open_section(page, "What PPO could gain")
        expect(page.locator("#best-of")).to_contain_text("sft-1 will answer 16 prompts 16 times each")
        page.click("#try-best-of")
        page.locator("#stop-best-of").click(timeout=SLOW)
        expect(page.locator("#best-of-progress")).to_contain_text("stopped before its end", timeout=SLOW)
        page.click("#try-best-of")
        expect(page.locator("#best-of h3")).to_contain_text("Picking the best of 16 answers of sft-1", timeout=SLOW)
        expect(page.locator("#best-of .wrong li")).to_have_count(3)
        page.get_by_text("All figures").locator("visible=true").click()
        expect(page.locator("#best-of svg")).to_be_visible()
        assert not cramped(page)
        page.mouse.move(0, 0)
        page.wait_for_timeout(1000)
        assert not offences(page)

        page.reload()  # everything is there at once: it is stored
        open_section(page, "Policy")
        expect(page.locator("#drift h3")).to_contain_text("ppo-1 ", timeout=10_000)
        open_section(page, "What PPO could gain")
        expect(page.locator("#best-of h3")).to_contain_text("Picking the best of 16", timeout=10_000)


def test_it_can_be_read_in_the_dark_and_on_a_phone(app):
    with app.page(wide=390, high=844, theme="dark") as page:
        ready(page)
        open_section(page, "Policy")
        expect(page.locator("#drift h3")).to_contain_text("ppo-1", timeout=10_000)
        page.wait_for_timeout(1000)
        assert not offences(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_round_is_gone_back_to_and_rate_and_train_go_by_it(app):
    with app.page(wide=390, high=844, theme="dark") as page:
        ready(page)
        open_section(page, "Rounds")
        panel = page.locator("#rounds")
        expect(panel.locator("h3")).to_contain_text("Round 2: ppo-1 answers")
        expect(panel.locator(".lead")).to_contain_text("ppo-1 is new: compare it blind with sft-1")
        expect(panel.locator(".figures svg")).to_have_attribute("aria-label", re.compile("^KL of its policy"))
        assert not offences(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        panel.get_by_role("button", name="Go back to this round (round 1, sft-1 answers)").click()
        expect(panel.locator("h3")).to_contain_text("Round 1: sft-1 answers", timeout=SLOW)
        expect(panel.locator("h3")).to_contain_text("still there with all votes: ppo-1")
        panel.locator("button.go").click()
        expect(page.locator("#judged input")).to_be_visible()  # there is the reward model to be looked at

        open_tab(page, "Train")
        expect(page.locator("#next-text")).to_contain_text("reward-1 is ready. Check it before PPO", timeout=SLOW)
        open_tab(page, "Rate")
        expect(page.locator("#rate [data-choice=first] option").first).to_have_text(
            "current model (sft-1)", timeout=SLOW
        )

        open_section(page, "Rounds")  # and forward again
        panel.get_by_role("button", name="Go to this round (round 2, ppo-1 answers)").click()
        expect(panel.locator(".lead")).to_contain_text("compare it blind", timeout=SLOW)
        panel.locator("button.go").click()
        expect(page.locator("#duel")).to_be_visible()
