"""Rounds in a real browser: what they show, going back to one, and what Rate and Train make of that."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from playwright.sync_api import expect

from lorarlhf import starter
from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.evaluate.health import judge_of
from lorarlhf.library import read_saved
from lorarlhf.settings import LoadSettings, LoraSettings
from lorarlhf.starter import judge
from lorarlhf.store import Contestant, Scored
from lorarlhf.types import Comparison, Origin, Outcome, user
from lorarlhf.ui.judge.looked import remember
from lorarlhf.workspace import Workspace
from tests.browser import App, open_tab, ready
from tests.test_ui_app import offences

MADE = (
    ("sft-1", {}),
    ("reward-1", {"eval/accuracy": 0.9, "eval/votes": 40.0}),
    ("ppo-1", {"eval/kl": 4.6}),
    ("reward-2", {"eval/accuracy": 0.85, "eval/votes": 60.0}),
    ("ppo-2", {"eval/kl": 6.2}),
)


def build(place: Workspace) -> None:
    """Two whole rounds: sft-1, reward-1, ppo-1, reward-2, ppo-2. reward-1 fails on the votes of round 2."""
    bank, rng = AdapterBank(load_base(LoadSettings())), random.Random(0)
    saved = {}
    for number, (name, metrics) in enumerate(MADE):
        stage = name.split("-")[0]
        bank.create(name, LoraSettings(rank=4), head=stage == "reward", seed=number)
        bank.load_state(name, {key: value + 0.002 * number for key, value in bank.state(name).items()})
        parents = {role: {"name": one.name, "hash": one.hash} for role, one in saved.items()} if stage == "ppo" else {}
        card = {"stage": stage, "created": f"2026-01-0{2 * number + 1}T10:00:00+00:00", "metrics": metrics}
        card |= {"parents": parents, "run": "", "settings": {"heldout_share": 1.0}, "data": {}}
        bank.save(name, place.adapters_dir / name, card)
        if stage != "ppo":
            saved[stage] = read_saved(place.adapters_dir / name)
    sft, policy = (read_saved(place.adapters_dir / name) for name in ("sft-1", "ppo-1"))
    reward = read_saved(place.adapters_dir / "reward-1")
    with place.store() as store:
        told = starter.transcripts()
        for row, answers in ((2, sft), (6, policy)):
            origin = Origin(source="app", adapters=(answers.name,) * 2, adapter_hashes=(answers.hash,) * 2)
            for a in rng.sample(told, 40):
                said = judge.compare(a.prompt, a.response, rng.choice(told).response)
                store.insert(replace(said, origin=origin), created=f"2026-01-0{row}T10:00:00.000000Z")
        for i, one in enumerate(store.comparisons()):
            up = i % 3 == 0 if i >= 40 else i % 9 != 0
            winner = one.value.a if one.value.outcome is Outcome.A else one.value.b
            texts = ((text, float((text == winner) == up)) for text in (one.value.a, one.value.b))
            store.add_scores(judge_of(reward), [(one.value.prompt, text, Scored(at, 9)) for text, at in texts])
        prompts = [user(f"Question {i}?") for i in range(40)]
        both = (Contestant("ppo-1", policy.hash), Contestant("sft-1", sft.hash))
        number = store.start_duel(both, policy.card["base"]["fingerprint"], prompts, {}, teaches=False)
        origin = Origin(source="duel", adapters=("ppo-1", "sft-1"), adapter_hashes=(policy.hash, sft.hash))
        for i, prompt in enumerate(prompts):
            said = Outcome.A if i % 4 else Outcome.B
            store.add_duel_vote(number, Comparison(prompt, "yes", "no", said, origin=origin))
        for name in ("reward-1", "reward-2"):
            remember(store, read_saved(place.adapters_dir / name), "seen")


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("rounds") / "work").open()
    build(place)
    with App(place.path) as app:
        yield app


def test_a_round_is_gone_back_to_and_rate_and_train_go_by_it(app):
    with app.page(wide=390, high=844, theme="dark") as page:
        ready(page)
        open_tab(page, "Judge")
        page.locator("#judge-sections .overflow-menu > button").first.click()
        page.locator("#judge-sections .overflow-dropdown button", has_text="Rounds").click()
        panel = page.locator("#rounds")
        expect(panel.locator("h3")).to_contain_text("Round 3: ppo-2 answers")
        expect(panel.locator(".against")).to_contain_text("reward-1 is right about")
        expect(panel.locator("svg")).to_have_count(3)
        expect(panel.locator("p.row").first).to_contain_text("ppo-1 is the one to keep")
        assert not offences(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390

        panel.get_by_role("button", name="Go back to this round, round 2").click()
        expect(panel.locator("h3")).to_contain_text("Round 2: ppo-1 answers")
        expect(panel.locator("h3")).to_contain_text("Not on the way here, but still there with all votes: ppo-2")
        panel.get_by_role("button", name="Go back to this round, round 1").click()
        expect(panel.locator("h3")).to_contain_text("Round 1: sft-1 answers")
        page.set_viewport_size({"width": 1280, "height": 900})
        open_tab(page, "Train")
        page.locator("#stages").get_by_role("tab", name="PPO", exact=True).click()
        expect(page.get_by_label("Reward adapter")).to_have_value("of this round: reward-1")
        open_tab(page, "Rate")
        expect(page.locator("#rate [data-choice=first] option").first).to_have_text("of this round (sft-1)")

        open_tab(page, "Judge")  # and forward again
        panel.get_by_role("button", name="Go to this round, round 3").click()
        expect(panel.locator("h3")).to_contain_text("Round 3: ppo-2 answers")
        assert not offences(page)
    with Workspace(app.workspace).store() as store:
        assert len(store.comparisons()) == 120
