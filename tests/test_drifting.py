"""The engine measures policies as they are: planted ones are caught in words, and each number has a second opinion."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from lorarlhf.engine import answering, drifting
from lorarlhf.engine.best_of import judge_best_of
from lorarlhf.engine.core import Engine
from lorarlhf.engine.drifting import judge_policy
from lorarlhf.engine.heads import CACHE
from lorarlhf.engine.training import train
from lorarlhf.errors import AdapterError
from lorarlhf.evaluate.bestof import best_of_in, best_of_key
from lorarlhf.evaluate.drift import drift_key, drift_of
from lorarlhf.evaluate.drift_alarms import alarms
from lorarlhf.evaluate.health import judge_of
from lorarlhf.evaluate.questions import QUESTIONS, TEXT
from lorarlhf.settings import RewardSettings, SFTSettings
from lorarlhf.types import Comparison, Demonstration, Outcome, is_heldout, prompt_key, user
from lorarlhf.workspace import Workspace
from tests.small_work import open_small

SMALL = {"rank": 8, "alpha": 16, "micro_batch_tokens": 2048, "heldout_share": 0.4, "batch_size": 16}
SHORT = ("it is so", "no, not now", "ask her", "by then, yes")
LONG = "well, there is a lot that one could say of just how my box was sent"
AGAIN = "yes yes yes yes yes"
TEMPERATURE = 0.3
"""A base this small says what it was taught only where it stays with the likeliest."""
PROMPTS = [user(f"question number {i}?") for i in range(60)]


def taught(engine: Engine, name: str, answers: tuple[str, ...]) -> None:
    """Train an adapter to answer like that."""
    ids = engine.store.add_demonstrations(Demonstration(p, answers[i % len(answers)]) for i, p in enumerate(PROMPTS))
    train(engine, "sft", SFTSettings(**SMALL, learning_rate=0.02, epochs=16, parent="base"), name)
    for id in ids:
        engine.store.undo("demonstrations", id)


def as_policy(engine: Engine, name: str, source: str, noise: float = 0.0) -> None:
    """Save an adapter as if PPO had made it from sft-1, with its weights moved a little if asked."""
    with engine.cleared():
        engine.bank.load("copy", engine.saved(source).path)
        if noise:
            torch.manual_seed(0)
            state = {key: value + noise * torch.randn_like(value) for key, value in engine.bank.state("copy").items()}
            engine.bank.load_state("copy", state)
        parents = {role: {"name": f"{role}-1", "hash": engine.saved(f"{role}-1").hash} for role in ("sft", "reward")}
        settings = {"temperature": TEMPERATURE, "max_new_tokens": 72, "heldout_share": 0.4, "missing_eos_score": -3.0}
        card = {"stage": "ppo", "run": "", "created": "2030", "settings": settings, "parents": parents, "data": {}}
        engine.bank.save("copy", engine.workspace.adapters_dir / name, card)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workspace:
    """An SFT adapter of short answers, a reward model that loves length, and policies whose faults are known."""
    engine = open_small(tmp_path_factory.mktemp("drifting"), bits=16)
    for name, answers in (("sft-1", SHORT), ("rambler", (LONG,)), ("repeater", (AGAIN,))):
        taught(engine, name, answers)
    rng = random.Random(0)
    for i, prompt in enumerate(PROMPTS):
        short, long = f"{rng.choice(SHORT)}", f"{rng.choice(SHORT)} {LONG[: 12 + i % 30]}"
        vote = Comparison(prompt, short, long, Outcome.B) if i % 2 else Comparison(prompt, long, short, Outcome.A)
        engine.store.add_comparison(vote)
    train(engine, "reward", RewardSettings(**SMALL, epochs=4, learning_rate=0.01))
    as_policy(engine, "ppo-well", "sft-1", noise=0.003)
    as_policy(engine, "ppo-long", "rambler")
    as_policy(engine, "ppo-again", "repeater")
    engine.store.close()
    return engine.workspace


def words(engine: Engine, name: str) -> str:
    judge_policy(engine, name, 20)
    return "\n".join(map(str, alarms(drift_of(engine.store, engine.saved(name)))))


def test_a_healthy_policy_is_silent_and_planted_ones_are_caught_in_words(engine):
    assert words(engine, "ppo-well") == ""
    long = words(engine, "ppo-long")
    assert "most of what was gained may be length" in long
    assert "ramble on until they are cut off" in long
    assert "KL is" in long
    again = words(engine, "ppo-again")
    assert "the policy says the same again and again" in again
    assert "again and again" not in long


def test_each_number_is_that_of_plain_transformers_and_peft(engine, place):
    judge_policy(engine, "ppo-well", 20)
    saved = engine.saved("ppo-well")
    kept, found = engine.store.get_meta(drift_key(saved)), drift_of(engine.store, saved)
    base = AutoModelForCausalLM.from_pretrained(engine.load_settings.base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(engine.load_settings.base)
    plain = PeftModel.from_pretrained(base, str(place.adapters_dir / "sft-1"), adapter_name="before").eval()
    plain.load_adapter(str(saved.path), "after")

    @torch.no_grad()
    def logprobs(side: str, ids: list[int], temperature: float) -> torch.Tensor:
        plain.set_adapter(side)
        return torch.log_softmax(plain(torch.tensor([ids])).logits[0] / temperature, -1)

    for side in ("before", "after"):
        row = kept[side][3]
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], tokenize=False, add_generation_prompt=True
        )
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, start = prompt + row["tokens"], len(prompt) - 1
        own, reference = (logprobs(who, ids, TEMPERATURE)[start:-1] for who in (side, "before"))
        chosen = torch.tensor(row["tokens"])[:, None]
        assert row["kl"] == pytest.approx(float((own - reference).gather(1, chosen).sum()), abs=1e-3)
        assert row["entropy"] == pytest.approx(float(-(own.exp() * own).sum(1).mean()), abs=1e-4)
        assert row["ended"] == (row["tokens"][-1] == engine.base.eos_id)
        # The reward model, too, scored the very tokens that were drawn.
        if row["ended"] and tokenizer(row["text"], add_special_tokens=False)["input_ids"] == row["tokens"][:-1]:
            direct = engine.score("reward-1", [(user(row["prompt"]), row["text"])])[0]
            assert row["score"] == pytest.approx(direct, abs=1e-3)
    surprise, tokens = 0.0, 0
    for sentence in TEXT:
        ids = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        scores = logprobs("after", [tokenizer.bos_token_id, *ids], 1.0)[:-1]
        surprise -= float(scores.gather(1, torch.tensor(ids)[:, None]).sum())
        tokens += len(ids)
    assert found.perplexity.after == pytest.approx(torch.tensor(surprise / tokens).exp().item(), rel=1e-3)
    assert found.known.guessing == 10
    for question, said in list(zip(QUESTIONS, kept["right"]["before"], strict=True))[:8]:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": question.text}], tokenize=False, add_generation_prompt=True
        )
        prompt, means = tokenizer(text, add_special_tokens=False)["input_ids"], []
        for option in (question.right, *question.wrong):
            ids = tokenizer(option, add_special_tokens=False)["input_ids"]
            scores = logprobs("before", prompt + ids, 1.0)[len(prompt) - 1 : -1]
            means.append(float(scores.gather(1, torch.tensor(ids)[:, None]).sum()) / len(option))
        assert said == (means[0] == max(means)), question


def test_a_vote_changes_what_the_heads_say_and_answers_are_drawn_again_only_where_they_would_differ(
    engine, place, monkeypatch
):
    judge_policy(engine, "ppo-well", 20)
    assert judge_policy(engine, "ppo-well", 20) == {"drawn": 0}
    assert len(list((place.path / CACHE).iterdir())) == 1
    (place.path / CACHE / next((place.path / CACHE).iterdir()).name).write_bytes(b"torn")  # costs time, nothing else
    key = drift_key(engine.saved("ppo-well"))
    before, asked, passes = engine.store.get_meta(key), list[int](), list[int]()
    for module, name, seen in ((answering, "complete", asked), (drifting, "token_stats", passes)):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, r=real, s=seen, **kw: s.append(len(a[1])) or r(*a, **kw))
    ids = [engine.store.add_comparison(Comparison(PROMPTS[0], LONG, "later", Outcome.A)) for _ in range(8)]
    assert judge_policy(engine, "ppo-well", 20) == {"drawn": 0}
    assert (asked, passes) == ([], [])
    after = engine.store.get_meta(key)
    assert {name for name in before if before[name] != after[name]} == {"with", "before", "after"}
    for side in ("before", "after"):
        for then, now in zip(before[side], after[side], strict=True):
            assert {name for name in then if then[name] != now[name]} == {"heads"}
    # The whole thing drawn anew, as if nothing were known, says the very same.
    engine.store.set_meta(key, {})
    assert judge_policy(engine, "ppo-well", 20) == {"drawn": 40}
    assert engine.store.get_meta(key) == after
    # A held-out prompt more: it alone is answered, and the others' answers stand as they are.
    new = next(p for i in range(100) if is_heldout(p := user(f"other {i}?"), 0.4) and prompt_key(p) < kept_last(after))
    ids.append(engine.store.add_comparison(Comparison(new, "so", "or so", Outcome.A)))
    asked.clear()
    assert judge_policy(engine, "ppo-well", 20) == {"drawn": 2}
    assert asked == [1, 1]
    more = engine.store.get_meta(key)
    known = dict(zip(after["with"]["prompts"], after["after"], strict=True))
    shared = [(known[at], row) for at, row in zip(more["with"]["prompts"], more["after"], strict=True) if at in known]
    assert len(shared) == 19
    assert all(then["tokens"] == now["tokens"] for then, now in shared)
    # Drawn all at once they are the same as drawn one after the other.
    engine.store.set_meta(key, {})
    assert judge_policy(engine, "ppo-well", 20) == {"drawn": 40}
    whole = engine.store.get_meta(key)
    for side in ("before", "after"):
        assert [row["tokens"] for row in whole[side]] == [row["tokens"] for row in more[side]]
    # Another seed draws other answers.
    assert judge_policy(engine, "ppo-well", 20, seed=1) == {"drawn": 40}
    for id in ids:
        engine.store.undo("comparisons", id)


def kept_last(kept: dict[str, Any]) -> str:
    return str(kept["with"]["prompts"][-1])


def test_a_job_can_be_stopped_at_any_time_and_leaves_what_was_there(engine):
    key = drift_key(engine.saved("ppo-well"))
    judge_policy(engine, "ppo-well", 20)
    before, told = engine.store.get_meta(key), []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge_policy(engine, "ppo-well", 12, stop)
    assert engine.store.get_meta(key) == before
    assert engine.bank._active is None
    told.clear()
    judge_policy(engine, "ppo-well", 12, lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert len({total for _, total in told}) == 1


def test_best_of_n_chooses_what_the_reward_model_likes(engine):
    found = judge_best_of(engine, "sft-1", "reward-1", 8, 12)
    assert found == {"drawn": 96}
    assert judge_best_of(engine, "sft-1", "reward-1", 8, 12) == {"drawn": 0}
    tried = best_of_in(engine.store, engine.saved("sft-1"), engine.saved("reward-1"))
    assert (tried.prompts, tried.drawn, tried.heads) == (12, 8, 10)
    assert tried.whole.gain.above(0)
    assert tried.whole.tokens.value > 1  # it was taught to love length
    assert judge_best_of(engine, "base", "reward-1", 2, 4) == {"drawn": 8}


def test_a_vote_draws_no_answers_of_best_of_n_again(engine, monkeypatch):
    saved, judge = engine.saved("sft-1"), engine.saved("reward-1")
    judge_best_of(engine, "sft-1", "reward-1", 4, 6)
    key, asked = best_of_key(saved, judge_of(judge)), list[int]()
    before, real = engine.store.get_meta(key), answering.complete
    monkeypatch.setattr(answering, "complete", lambda *a, **kw: asked.append(len(a[1])) or real(*a, **kw))
    ids = [engine.store.add_comparison(Comparison(PROMPTS[0], LONG, "later", Outcome.A)) for _ in range(8)]
    told: list[tuple[int, int]] = []
    assert judge_best_of(engine, "sft-1", "reward-1", 4, 6, lambda *done: told.append(done)) == {"drawn": 0}
    assert told[-1][0] == told[-1][1]
    after = engine.store.get_meta(key)
    for then, now in zip(before["prompts"], after["prompts"], strict=True):
        assert {name for name in then if then[name] != now[name]} == {"least"}
    # Drawn anew, as if nothing were known, and as a version left it that kept no answers: the very same.
    for forgotten in ({}, {**before, "prompts": [{"scores": [], "least": [], "tokens": []}] * 6}):
        engine.store.set_meta(key, forgotten)
        assert judge_best_of(engine, "sft-1", "reward-1", 4, 6) == {"drawn": 24}
        assert engine.store.get_meta(key) == after
    # Two prompts more cost their own answers.
    asked.clear()
    assert judge_best_of(engine, "sft-1", "reward-1", 4, 8) == {"drawn": 8}
    assert asked == [8]
    more = engine.store.get_meta(key)["prompts"][:6]
    assert [row["answers"] for row in more] == [row["answers"] for row in after["prompts"]]
    # Another n, or another seed, draws others.
    assert judge_best_of(engine, "sft-1", "reward-1", 2, 8) == {"drawn": 16}
    assert judge_best_of(engine, "sft-1", "reward-1", 2, 8, seed=1) == {"drawn": 16}
    for id in ids:
        engine.store.undo("comparisons", id)


def test_what_cannot_be_measured_is_refused_in_words(engine, place):
    for act, said in (
        (lambda: judge_policy(engine, "reward-1"), "reward-1 is a reward model; `lorarlhf judge reward"),
        (lambda: judge_policy(engine, "ghost"), "no adapter ghost"),
        (lambda: judge_best_of(engine, "sft-1", "sft-1"), "sft-1 is no reward model"),
        (lambda: judge_best_of(engine, "reward-1", "reward-1"), "answers nothing"),
    ):
        with pytest.raises(AdapterError, match=said):
            act()
    (place.adapters_dir / "reward-1").rename(place.path / "aside")
    try:
        judge_policy(engine, "ppo-long", 12)
        found = drift_of(engine.store, engine.saved("ppo-long"))
        assert found.reward_gain is None
        assert found.caveats == ("reward-1, which it was trained on, is gone: nothing is scored",)
    finally:
        (place.path / "aside").rename(place.adapters_dir / "reward-1")
    (place.adapters_dir / "sft-1").rename(place.path / "aside")
    try:
        with pytest.raises(AdapterError, match="sft-1, from which it was made, is not in this workspace any more"):
            judge_policy(engine, "ppo-long", 12)
    finally:
        (place.path / "aside").rename(place.adapters_dir / "sft-1")


def test_the_commands_tell_in_words_and_as_json(lorarlhf_there):
    status, out, _ = lorarlhf_there("judge", "policy", "ppo-again", "--prompts", "12")
    assert status == 0
    assert "sft-1 (KL " in out
    assert "again and again" in out
    status, out, _ = lorarlhf_there("judge", "policy", "ppo-again", "--prompts", "12", "--json")
    assert (status, json.loads(out)["alarms"][0].keys()) == (0, {"seen", "means", "do"})
    asked = (
        "judge",
        "best-of",
        "sft-1",
        "--reward",
        "reward-1",
        "--n",
        "4",
        "--prompts",
        "10",
        "--max-new-tokens",
        "20",
    )
    status, out, _ = lorarlhf_there(*asked)
    assert status == 0
    assert "Picking the best of 4 answers of sft-1 by reward-1 gains " in out
    status, out, _ = lorarlhf_there(*asked, "--json")
    assert (status, len(json.loads(out)["points"])) == (0, 4)
    status, out, err = lorarlhf_there("judge", "policy", "reward-1")
    assert (status, out, len(err.strip().splitlines())) == (1, "", 1)
