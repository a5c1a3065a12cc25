"""Blind comparison in a real browser: by keys to the verdict, blind until the vote, and over a restart on the way."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import load_base
from lorarlhf.library import read_saved
from lorarlhf.settings import LoadSettings, LoraSettings
from lorarlhf.store import DuelVote
from lorarlhf.workspace import Workspace
from tests.browser import PATIENCE, App, draw_little, open_section, open_tab, ready
from tests.test_ui_app import offences

SLOW = PATIENCE * 1000


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    place = Workspace(tmp_path_factory.mktemp("duel") / "work").open()
    draw_little(place)
    bank = AdapterBank(load_base(LoadSettings()))
    for number, stage in enumerate(("sft", "ppo")):
        bank.create(stage, LoraSettings(rank=4), seed=number)
        # The policy is broken, so that anybody can tell: it is to lose.
        bank.load_state(stage, {k: v + (0.01 if stage == "sft" else 0.4) for k, v in bank.state(stage).items()})
        card: dict[str, Any] = {"stage": stage, "created": f"2026-01-0{number + 1}T10:00:00+00:00", "metrics": {}}
        card |= {"run": "", "settings": {"heldout_share": 1.0}, "data": {}, "parents": {}}
        bank.save(stage, place.adapters_dir / f"{stage}-1", card)
        if stage == "sft":  # a checkpoint that answers like it, though not with its weights
            bank.load_state(stage, {k: v + 0.0001 for k, v in bank.state(stage).items()})
            bank.save(stage, place.runs_dir / "run" / "run@40", card | {"run": "run", "step": 40})
    with App(place.path) as app:
        yield app


def votes(app: App) -> list[DuelVote]:
    with Workspace(app.workspace).store() as store:
        return store.duel_votes()


def go_there(page: Page) -> None:
    ready(page)
    open_section(page, "Blind comparison")
    page.wait_for_selector(".duel:not([data-state=opening])")


def settle(page: Page) -> str:
    """Wait for a pair that can be voted on; return its id."""
    page.wait_for_selector(".duel[data-state=ready]", timeout=SLOW)
    return str(page.get_attribute(".duel", "data-sheet"))


def press(page: Page, key: str) -> None:
    before = settle(page)
    page.keyboard.press(key)
    page.wait_for_function("id => document.querySelector('.duel').dataset.sheet !== id", arg=before)


def better(page: Page) -> str:
    """Tell the key of the answer that reads like the help desk; the broken policy writes gibberish."""

    def sense(text: str) -> float:
        words = text.split()
        return sum(word.strip(".,!?").lower() in COMMON for word in words) / max(1, len(words))

    a, b = (sense(text) for text in page.locator(".duel .answer .text").all_inner_texts())
    return "2" if a > b else "4" if b > a else "3"


COMMON = {"the", "you", "your", "it", "is", "we", "a", "to", "and", "of", "in", "for", "can", "i", "on", "order"}


def vote_until_settled(page) -> None:
    for _ in range(30):
        if "Decided" in page.locator(".duel .standing").inner_text():
            break
        press(page, better(page))
        settle(page)
    expect(page.locator(".duel .pair.settled .verdict")).to_contain_text("sft-1 is preferred to ppo-1: it wins")
    expect(page.locator(".duel .reveal .title")).to_have_text("sft-1 is better")
    expect(page.locator(".duel .next button").first).to_have_text("Let sft-1 answer from now on")


def double_click(page: Page, app: App) -> str:
    """A double click votes once, and leaves no button in focus that Space would press → who is ahead by it."""
    side = {"2": "a1", "3": "tie", "4": "b1"}[better(page)]
    page.dblclick(f".duel [data-do={side}]", delay=10)
    expect(page.locator(".duel .last")).to_contain_text("A was ")
    settle(page)
    page.keyboard.press("Space")
    page.wait_for_timeout(400)
    assert len(votes(app)) == 1
    return "ppo-1" if side == "tie" else "sft-1"  # of two that are level the first is named


def test_by_keys_to_the_verdict_blind_until_the_vote_and_over_a_restart(app):
    with app.page(high=900) as page:
        replies: list[str] = []
        page.on("response", lambda r: "component_server" in r.url and replies.append(r.text()))
        go_there(page)
        assert not offences(page)
        expect(page.locator(".duel .who input:checked")).to_have_count(2)
        page.click(".duel [data-do=begin]")
        settle(page)
        # Of who stands where nothing is on the page or was sent: not by name, nor in any attribute.
        parts = page.locator(".duel").locator(".prompt, .answers, .verdicts, .under .tools")
        bare = "n => { n.querySelectorAll('.text').forEach(text => text.replaceChildren()); return n.outerHTML }"
        inside = " ".join(parts.evaluate_all(f"nodes => nodes.map(n => n.cloneNode(true)).map({bare})")).lower()
        assert "<header>a</header>" in inside
        assert not [word for word in ("ppo-1", "sft-1", "base", "hash", "adapter", "source", "left") if word in inside]
        assert not [reply for reply in replies if "sources" in reply or "hash" in reply]
        names = page.locator(".duel .names").inner_text()
        assert names == "ppo-1 against sft-1"  # the newest first
        assert not offences(page)

        ahead = double_click(page, app)
        expect(page.locator(".duel .standing")).to_contain_text(f"Not settled yet: {ahead} wins")
        # A second press, and one too early, are no votes; nor are keys of another tab, or typed into a field.
        open_tab(page, "Compare")
        page.keyboard.press("2")
        open_tab(page, "Judge")
        settle(page)
        page.keyboard.press("w")
        page.wait_for_selector(".duel .composer textarea:focus")
        page.keyboard.type("1 where is order 5?")
        page.keyboard.press("Enter")
        expect(page.locator(".duel .said").first).to_contain_text("In line")
        page.keyboard.press("Escape")
        assert len(votes(app)) == 1
        for _ in range(3):
            press(page, better(page))
        standing = page.locator(".duel .standing").inner_text()

    app.end(signal.SIGKILL)
    assert len(votes(app)) == 4
    app.start()
    with app.page(theme="dark", high=900) as page:
        go_there(page)
        settle(page)
        assert page.locator(".duel .standing").inner_text() == standing
        assert not offences(page)
        vote_until_settled(page)
        before = len(votes(app))
        press_undo = page.locator(".duel [data-do=undo]")
        press_undo.click()
        expect(page.locator(".duel .said").first).to_contain_text("Taken back")
        assert len(votes(app)) == before - 1
        press(page, better(page))
        settle(page)
        vote_until_settled(page)  # that one may have been a tie

        page.get_by_role("button", name="Let the scripted judge vote").click()
        # It votes on 200 prompts and the typed one; what it said of the first of them is kept when stopped.
        told = page.locator(".duel .judges [role=status]")
        expect(told).to_contain_text(re.compile(r"(6[4-9]|[7-9]\d|[1-3]\d\d) of 402"), timeout=60_000)
        page.get_by_role("button", name="Stop", exact=True).locator("visible=true").click()
        expect(page.locator(".duel .machines")).to_contain_text("By the scripted judge: sft-1 wins", timeout=SLOW)
        expect(page.locator(".duel .board")).to_contain_text("By people")
        expect(page.locator(".duel .board")).to_contain_text("By the scripted judge")
        assert not offences(page)
        page.click(".duel [data-do=leave]")
        expect(page.locator(".duel .earlier")).to_contain_text("ppo-1 against sft-1")
        assert not offences(page)
        page.get_by_role("button", name="Go on").click()
        settle(page)
    people = [vote for vote in votes(app) if not vote.judge]
    card = read_saved(Workspace(app.workspace).adapters_dir / "sft-1").card
    own = next(one for one in card["duels"] if one["by"] == "people")
    assert own["votes"] == len([vote for vote in people if vote.outcome != "skip"])
    assert (own["taken_back"], own["settled"]) == (1, "first")


def test_a_checkpoint_takes_part_as_adapters_do_and_can_be_kept_as_one(app):
    with app.page(high=900) as page:
        go_there(page)
        settle(page)
        page.click(".duel [data-do=leave]")
        page.get_by_text("Checkpoints of runs").click()
        for name, takes_part in (("sft-1", False), ("ppo-1", True), ("run@40", True)):
            page.set_checked(f".duel .who input[value='{name}']", takes_part)
        page.click(".duel [data-do=begin]")
        settle(page)
        keep = page.get_by_role("button", name="Keep it as an adapter")
        for _ in range(9):  # it is offered once the checkpoint is ahead; now and then both answers read alike
            press(page, better(page))
            expect(page.locator(".duel .last")).to_contain_text("run@40")
            settle(page)
            if keep.count():
                break
        keep.click()
        expect(page.locator(".duel .said").first).to_contain_text("Kept as adapter sft-2")
        expect(page.locator(".duel .names")).to_have_text("sft-2 against ppo-1")
        assert not offences(page)


def test_on_a_phone_nothing_is_wider_than_the_screen_and_votes_are_in_reach(app):
    with app.page(wide=390, high=844) as page:
        go_there(page)
        settle(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        verdicts = page.locator(".duel .verdicts").bounding_box()
        assert verdicts
        assert verdicts["y"] + verdicts["height"] <= 844
