"""The five stops of a person's way, and what votes are good for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from lorarlhf.evaluate.duels import PEOPLE
from lorarlhf.types import Outcome, user
from lorarlhf.ui.journey import journey, journey_html
from lorarlhf.ui.readiness import Readiness


def adapter(name: str, created: str):
    return SimpleNamespace(name=name, hash=f"hash of {name}", card={"created": created})


def duel(n: int, outcome: Outcome):
    return SimpleNamespace(
        judge=PEOPLE, first="hash of ppo-1", second="base", outcome=outcome, prompt=user(f"{n}?"), id=n, comparison=None
    )


REWARD, POLICY, LATER = adapter("reward-1", "2"), adapter("ppo-1", "3"), adapter("reward-2", "4")
WON = [duel(n, Outcome.A) for n in range(30)]


@pytest.mark.parametrize(
    ("votes", "reward", "policy", "duels", "exports", "now"),
    [
        (34, None, None, [], [], "Rate 34/50"),
        (50, None, None, [], [], "Reward model"),
        (60, REWARD, None, [], [], "Train"),
        (60, REWARD, POLICY, [], [], "Blind test"),
        (60, REWARD, POLICY, WON[:3], ["ppo-10.zip"], "Blind test"),
        (60, REWARD, POLICY, WON, ["ppo-10.zip"], "Export"),
        (60, REWARD, POLICY, WON, ["ppo-1-gguf.zip"], ""),
        (120, LATER, POLICY, WON, ["ppo-1.zip"], "Train"),
    ],
)
def test_the_first_stop_that_is_not_done_comes_next(votes, reward, policy, duels, exports, now):
    stops = journey(votes, reward, policy, duels, exports)
    assert [stop.words for stop in stops if stop.state == "now"] == ([now] if now else [])
    assert journey_html(stops).count("aria-current=step") == bool(now)
    assert len(stops) == 5


def test_readiness_has_the_same_words_everywhere():
    levels = [Readiness(votes).level for votes in (0, 49, 50, 149, 150, 399, 400, 9999)]
    assert levels == ["too few"] * 2 + ["a first try"] * 2 + ["usable"] * 2 + ["reliable"] * 2
    assert Readiness(74).words == "74 votes: a first try, 76 more for usable"
    assert Readiness(400).words == "400 votes: reliable"
