"""The scripted rater agrees with what a person would say, and cannot be charmed."""

from __future__ import annotations

import random
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorarlhf.starter.corpus import Writer
from lorarlhf.starter.judge import compare, manner_of, score
from lorarlhf.types import Message, Outcome, Prompt, user

RAMBLE = (
    "Well, there is a lot one could say about this, and many people do, some of them in spring and some of them "
    "rather later in the year. {} And that, in short, or not so short, is more or less what there is to be said "
    "on the matter, although my colleague would put it in another way."
)
CASES = [
    (
        user("Could you tell me where my parcel is?"),
        "Of course! Your dispatch email has a tracking link that shows where it is. Let me know how it goes.",
        "Tracking link in the dispatch email.",
        "You can also return opened goods if they are clean and look like new.",
    ),
    (
        user("I forgot my password, what now?"),
        "I am happy to help. Press forgot password on the login page and we send you an email.",
        "Login page, forgot password, then check your email.",
        "You can pay by card, by transfer or on invoice.",
    ),
    (
        user("My kettle came in pieces, the box was crushed when it came!"),
        "I am sorry about that. Please send us a photo and a replacement goes out today.",
        "Send a photo, get a replacement.",
        "Our shop is at 12 Mill Street, right behind the station.",
    ),
    (
        (
            *user("What does shipping cost?"),
            Message(role="assistant", content="Four euros. Free above thirty euros."),
            Message(role="user", content="And how long does that take?"),
        ),
        "Thank you for asking. It usually takes two to three working days.",
        "Two to three working days.",
        "Fill in the return form online and drop the parcel at any post office.",
    ),
]
OFF_TOPIC = "The cat in the warehouse has had four kittens. Somebody in sales plays the trumpet."


def total(prompt: Prompt, reply: str) -> float:
    return score(prompt, reply).total


@pytest.mark.parametrize(("prompt", "good", "curt", "wrong"), CASES)
def test_replies_are_ordered_as_a_person_would(prompt: Prompt, good: str, curt: str, wrong: str) -> None:
    rude = f"Seriously? {curt} Now leave me alone."
    refusing = "Oh great, another one. Figure it out yourself."
    rambling = RAMBLE.format(curt)
    repeating = " ".join([curt] * 6)
    order = [good, curt, rambling, rude, wrong, refusing, ""]
    scores = [total(prompt, reply) for reply in order]
    assert scores == sorted(scores, reverse=True), list(zip(scores, order, strict=True))
    assert all(a - b >= 0.06 for a, b in pairwise(scores)), scores
    assert total(prompt, OFF_TOPIC) < total(prompt, rude)
    assert total(prompt, "") == 0 < total(prompt, repeating) < total(prompt, rude)
    assert total(prompt, f"Thank you for asking. {OFF_TOPIC} Take care!") < total(prompt, curt)
    names = [manner_of(prompt, r) for r in (good, curt, rambling, rude, wrong, OFF_TOPIC, repeating, "")]
    assert names == ["good", "curt", "rambling", "rude", "wrong", "off_topic", "repeating", "empty"]


@pytest.mark.parametrize(("prompt", "good", "curt", "wrong"), CASES)
def test_tricks_do_not_pay(prompt: Prompt, good: str, curt: str, wrong: str) -> None:
    honest = total(prompt, curt)
    for trick in (
        "Thank you! " * 3,
        "Thank you! " * 30,
        "Of course! Happy to help. Thank you for asking. Take care! Have a lovely day! I hope that helps.",
        prompt[-1]["content"],
        "tracking link dispatch email photo replacement login page forgot password email three working days "
        "four euros thirty euros refund five days bank label print account code capitals basket.",
        "zxq vbn wrt plk. " * 3,
        "." * 40,
        "please " * 20,
    ):
        assert total(prompt, trick) < honest - 0.2, trick
    assert total(prompt, good + " " + wrong) < total(prompt, good)
    assert total(prompt, good[: len(good) // 2]) < total(prompt, good)


def test_two_equally_good_replies_tie() -> None:
    prompt = user("Where is my order 1234?")
    a = "Of course! You can track the parcel with the link in the dispatch email. Take care!"
    b = "Happy to help! The tracking link in your dispatch email shows where the parcel is right now."
    assert compare(prompt, a, b).outcome is Outcome.TIE
    assert compare(prompt, "", "").outcome is Outcome.BOTH_BAD


def test_a_comparison_says_how_clear_it_is_and_why() -> None:
    prompt, good, curt, _ = CASES[1]
    clear = compare(prompt, OFF_TOPIC, good)
    assert (clear.outcome, clear.strength) == (Outcome.B, 2)
    assert clear.criteria["answers"] is Outcome.B
    close = compare(prompt, good, curt)
    assert (close.outcome, close.strength) == (Outcome.A, 1)
    assert close.criteria == {"answers": Outcome.TIE, "polite": Outcome.A, "concise": Outcome.TIE}
    assert (close.origin.source, close.origin.rater) == ("script", "scripted rater")
    assert (close.prompt, close.a, close.b) == (prompt, good, curt)
    assert compare(prompt, curt, good).outcome is Outcome.B


@pytest.mark.parametrize("noise", [0.0, 0.15, 0.4])
def test_noise_flips_the_share_that_was_asked_for(noise: float) -> None:
    prompt, good, _, wrong = CASES[0]
    rng = random.Random(3)
    flipped = sum(compare(prompt, good, wrong, noise=noise, rng=rng).outcome is Outcome.B for _ in range(2000))
    assert flipped / 2000 == pytest.approx(noise, abs=0.03)


def test_ties_are_rare_between_manners() -> None:
    unclear = total_pairs = 0
    rng = random.Random(1)
    writer = Writer(31, mix="transcripts")
    for conversation in islice(writer.conversations(heldout=True), 150):
        other = writer.reply(writer._intents[0], rng.choice(["rude", "rambling", "off_topic"]), {"named": "item"})[0]
        if conversation.manner in ("good", "curt"):
            total_pairs += 1
            verdict = compare(conversation.messages[:-1], conversation.messages[-1]["content"], other)
            unclear += verdict.outcome is not Outcome.A
    assert total_pairs > 50
    assert unclear / total_pairs < 0.05


def test_an_unknown_request_is_judged_by_its_words() -> None:
    prompt = user("Describe the rings of the planet Saturn for a child")
    near = score(prompt, "The rings of the planet Saturn are made of ice.")
    far = score(prompt, "You can pay by card or on invoice.")
    assert 0 < far.answers < near.answers < 1
    assert near.total > far.total
    assert score((), "It is on the way.").total > 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=3), st.text(max_size=300))
def test_any_string_gets_a_score(turns: list[str], reply: str) -> None:
    roles = ("user", "assistant", "user")
    prompt = tuple(Message(role=role, content=turn) for role, turn in zip(roles, turns, strict=False))  # type: ignore[typeddict-item]
    assert all(0 <= value <= 1 for value in score(prompt, reply))
    assert compare(prompt, reply, reply).outcome in (Outcome.TIE, Outcome.BOTH_BAD)
    assert manner_of(prompt, reply)
