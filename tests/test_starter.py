"""The starter's text and files: enough of it, deterministic, and nothing held out leaks."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest

from lorarlhf import starter
from lorarlhf.starter.build import prompt_rows, transcript_rows
from lorarlhf.starter.careless import plain
from lorarlhf.starter.corpus import Conversation, Writer
from lorarlhf.starter.texts import about, follow_ups, intents, manners

FOLDER = starter.MODEL_DIR.parent
SHIPPED = [*FOLDER.glob("*.jsonl"), *FOLDER.glob("*.yaml"), *FOLDER.glob("*.md"), *FOLDER.glob("model/*")]


def shape(text: str) -> str:
    """Open the slots of a request and drop capitals and points, so that two wordings can be compared."""
    slots = manners().slots
    values = {value.lower(): slot for slot in slots for value in slots[slot]}
    words = "|".join(sorted(values, key=len, reverse=True))
    text = re.sub(rf"\b({words})(?=s?\b)", lambda m: f"{{{values[m[1]]}}}", text.lower())
    return re.sub(r"\b\d{4}\b", "{order}", text).rstrip(".?! ")


def fingerprint(conversations: list[Conversation]) -> str:
    return hashlib.sha256(repr(conversations).encode()).hexdigest()


def test_there_are_many_requests_in_many_words() -> None:
    forms = {shape(form) for intent in intents().values() for form in intent.asks + intent.heldout}
    assert len(intents()) >= 60
    assert len(forms) >= 600
    assert len(forms) == sum(len(i.asks) + len(i.heldout) for i in intents().values()), "a form occurs twice"


@pytest.mark.parametrize("name", intents())
def test_every_answer_states_every_fact(name: str) -> None:
    from lorarlhf.starter.judge import score
    from lorarlhf.types import user

    intent = intents()[name]
    for text in intent.solve + intent.curt:
        assert score(user(intent.asks[0]), text).answers == 1.0, text


@pytest.mark.parametrize("name", sorted(set(follow_ups()) - {"again"}))
def test_every_follow_up_states_its_facts(name: str) -> None:
    for first in ("express", "instalments"):
        second = about(intents()[first], follow_ups()[name])
        for text in second.solve + second.curt:
            assert "{" not in text
            assert all(any(w in text.lower() for w in fact.split("|")) for fact in second.facts), text


def test_the_corpus_is_deterministic() -> None:
    first, again, other = (fingerprint(list(islice(Writer(seed).conversations(system=0.1), 300))) for seed in (5, 5, 6))
    assert first == again
    assert first != other


def test_the_manner_does_not_depend_on_the_request() -> None:
    total: Counter[str] = Counter()
    by_topic: dict[str, Counter[str]] = {}
    for conversation in islice(Writer(7).conversations(), 6000):
        topic = intents()[conversation.intent].topic
        by_topic.setdefault(topic, Counter())[conversation.manner] += 1
        total[conversation.manner] += 1
    for name, share in manners().mixes["base"].items():
        assert total[name] / 6000 == pytest.approx(share, abs=0.03)
        for topic, counts in by_topic.items():
            assert counts[name] / counts.total() == pytest.approx(share, abs=0.08), (topic, name)


def test_the_shipped_files_are_what_the_recipe_writes() -> None:
    for name, rows in (
        ("transcripts", transcript_rows()),
        ("prompts", prompt_rows(heldout=False)),
        ("prompts_heldout", prompt_rows(heldout=True)),
    ):
        lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == list(rows), f"{name}.jsonl: run the build again"


def test_the_api_gives_typed_rows() -> None:
    shown, asked, kept = starter.transcripts(), starter.prompts(), starter.prompts(heldout=True)
    assert len(shown) == 800
    assert len(asked) >= 500
    assert len(kept) >= 150
    assert all(d.prompt[-1]["role"] == "user" and d.response for d in shown)
    assert sum(len(p) > 1 for p in asked) >= 100
    assert sum(len(p) > 1 for p in kept) >= 30
    assert not set(map(json.dumps, asked)) & set(map(json.dumps, kept))


def test_heldout_wordings_occur_nowhere_else() -> None:
    heldout = {shape(form) for intent in intents().values() for form in intent.heldout}
    asks = {shape(form) for intent in intents().values() for form in intent.asks}
    assert not heldout & asks
    seen = {d.prompt[0]["content"] for d in starter.transcripts()} | {p[0]["content"] for p in starter.prompts()}
    seen |= {
        next(m["content"] for m in c.messages if m["role"] == "user")
        for c in islice(Writer(21).conversations(system=0.1), 3000)
    }
    reworded = {plain(c.form) for c in islice(Writer(22, careless=0.85).conversations(), 5000)}
    assert not reworded & {plain(form) for intent in intents().values() for form in intent.heldout}
    assert len(reworded) > 3000
    shapes = [shape(text) for text in seen]
    for form in heldout:
        # A greeting or a thank-you around it would not make it another wording.
        assert not [s for s in shapes if form in s and not any(form in ask for ask in asks)], form
    for prompt in starter.prompts(heldout=True):
        assert any(form in shape(prompt[0]["content"]) for form in heldout), prompt


def test_all_files_fit_in_eight_megabytes() -> None:
    assert any(path.suffix == ".safetensors" for path in SHIPPED)
    assert sum(path.stat().st_size for path in SHIPPED) <= 8_000_000


def test_importing_the_starter_and_the_rater_does_not_import_torch() -> None:
    code = "import sys, lorarlhf.starter, lorarlhf.starter.judge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
