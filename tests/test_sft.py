"""Supervised fine-tuning against transformers' own masked loss on the same weights."""

from __future__ import annotations

import pytest
import torch

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import Base, load_base
from lorarlhf.data.chat import encode_prompt
from lorarlhf.errors import SettingsError, TrainingError
from lorarlhf.forward import context_of
from lorarlhf.settings import LoadSettings, LoraSettings, SFTSettings
from lorarlhf.train.common import Studio, split_by_prompt
from lorarlhf.train.order import batch_at
from lorarlhf.train.sft import SFTStage
from lorarlhf.train.team import Team
from lorarlhf.types import Demonstration, is_heldout, user
from tests import tiny

LORA = LoraSettings(rank=2, alpha=4)
DEMONSTRATIONS = [
    Demonstration(user(f"{question} {i}?"), answer)
    for i, (question, answer) in enumerate(
        [("a", "Yes."), ("why", "Because it is so."), ("who", "Me"), ("which one of them", "No!"), ("b", "A long one.")]
    )
]


def tiny_base(folder, arch: str = "llama") -> Base:
    saved = tiny.save(folder, arch, layers=1)
    return load_base(LoadSettings(base=str(saved), bits=16, compute="fp32", device="cpu"))


def noisy(bank: AdapterBank, name: str, seed: int = 1, *, head: bool = False) -> None:
    """Create an adapter whose B is not zero, so that the gradient of A is not either."""
    bank.create(name, LORA, seed=seed, head=head)
    generator = torch.Generator().manual_seed(seed)
    bank.load_state(name, {k: 0.2 * torch.randn(v.shape, generator=generator) for k, v in bank.state(name).items()})


def captured(stage, index: int = 0) -> tuple[dict[str, float], list[torch.Tensor]]:
    """Make a step whose optimizer only hands out the gradients."""
    found: list[torch.Tensor] = []
    parameters = stage.optimizer.groups[0].parameters

    def only_look(*_):
        found.extend(p.grad.clone() for p in parameters)
        for p in parameters:
            p.grad = None
        return {}

    stage.optimizer.step = only_look
    return stage.step(index), found


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_base(tmp_path_factory.mktemp("bases") / "llama")


@pytest.fixture
def studio(base):
    bank = AdapterBank(base)
    noisy(bank, "sft")
    yield Studio(base, bank, Team())
    for name in bank.names:
        bank.delete(name)


def make(studio, demonstrations=DEMONSTRATIONS, **settings) -> SFTStage:
    known = {"heldout_share": 0, "batch_size": 4, "learning_rate": 0.02}
    return SFTStage(studio, "sft", SFTSettings(**known | settings), demonstrations)


def plain_gradients(studio, stage, chosen: list[int], relabel=None) -> tuple[float, list[torch.Tensor]]:
    """Let transformers compute the loss, labels −100 on the prompt, row by row; average over response tokens."""
    rows = [stage.rows[i] for i in chosen]
    tokens = sum(len(row.response) for row in rows)
    total = 0.0
    parameters = stage.optimizer.groups[0].parameters
    with studio.bank.activate("sft"):
        for row in rows:
            ids = torch.tensor([row.prompt + row.response])
            labels = torch.tensor([[-100] * len(row.prompt) + row.response])
            loss = studio.base.model(input_ids=ids, labels=labels, use_cache=False).loss * len(row.response) / tokens
            loss.backward()
            total += loss.item()
    gradients = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    return total, gradients


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("budget", [16, 70, 10_000])
def test_gradients_are_those_of_transformers_however_the_batch_is_cut(studio, budget, checkpointing):
    stage = make(studio, micro_batch_tokens=budget, gradient_checkpointing=checkpointing)
    metrics, found = captured(stage, index=1)
    chosen = batch_at(1, 4, 5, 0)
    loss, expected = plain_gradients(studio, stage, chosen)
    assert metrics["loss/sft"] == pytest.approx(loss, rel=1e-5)
    assert len(found) == len(expected) == 14
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 1e-4
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-6)
    assert not studio.base.model.training


def test_rows_are_the_prompt_as_generated_and_the_answer_with_its_end(studio):
    stage = make(studio)
    tokenizer = studio.base.tokenizer
    for row, demonstration in zip(stage.rows, DEMONSTRATIONS, strict=True):
        assert row.prompt == encode_prompt(tokenizer, demonstration.prompt)
        assert tokenizer.decode(row.response[:-1]) == demonstration.response
        assert row.response[-1] == studio.base.eos_id
        assert row.response.count(studio.base.eos_id) == 1


def test_too_long_rows_lose_the_start_of_the_prompt_then_the_end_of_the_answer(studio):
    row = studio.row(user("x" * 60), "y" * 10, 40)
    assert row.length == 40
    assert studio.base.tokenizer.decode(row.response[:-1]) == "y" * 10
    assert row.prompt[-5:] == encode_prompt(studio.base.tokenizer, user("x"))[-5:]
    row = studio.row(user("x"), "y" * 60, 40)
    assert (row.length, len(row.prompt)) == (40, 20)  # half the room at most
    row = studio.row(user("x" * 60), "y" * 60, 40)
    assert (row.length, len(row.prompt)) == (40, 20)
    assert studio.base.eos_id not in row.response  # cut off, so it did not end
    assert studio.row(user("x" * 600), "y", 4096).length == context_of(studio.base) == 256


def test_the_loss_falls_to_nothing_on_what_it_is_shown(studio):
    output = studio.base.model.lm_head.weight
    with torch.no_grad():
        output.mul_(4)  # else no hidden state could make a random output layer sure of a token
    stage = make(studio, epochs=80, batch_size=8, learning_rate=0.02)
    losses = [stage.step(i)["loss/sft"] for i in range(stage.total)]
    with torch.no_grad():
        output.div_(4)
    assert losses[0] > 4
    assert losses[-1] < 0.2


def test_every_pass_shows_every_demonstration(studio):
    assert make(studio, epochs=2, batch_size=2).total == 5
    assert make(studio, epochs=0.1, batch_size=2).total == 1
    # More room than demonstrations: a batch is a pass, and two passes are two steps.
    assert make(studio, epochs=2, batch_size=64).total == 2


def test_heldout_prompts_are_only_measured(studio):
    many = [Demonstration(user(f"prompt {i}"), f"{i}") for i in range(40)]
    held = [d for d in many if is_heldout(d.prompt, 0.3)]
    assert 4 < len(held) < 25
    stage = make(studio, many, heldout_share=0.3, micro_batch_tokens=100)
    assert len(stage.rows) + len(stage.heldout) == 40
    assert [studio.base.tokenizer.decode(r.response[:-1]) for r in stage.heldout] == [d.response for d in held]
    stage.rows, tokens = stage.heldout, sum(len(r.response) for r in stage.heldout)
    loss, _ = plain_gradients(studio, stage, list(range(len(held))))
    evaluation = stage.evaluate()
    assert evaluation.metrics["eval/loss"] == pytest.approx(loss, rel=1e-5)
    assert evaluation.quality == pytest.approx(-loss, rel=1e-5)
    assert evaluation.metrics["eval/perplexity"] == pytest.approx(torch.tensor(loss).exp().item(), rel=1e-4)
    assert tokens == 2 * len(held) + sum(len(d.response) == 2 for d in held)
    assert make(studio).evaluate() is None


def test_the_same_prompt_is_never_on_both_sides():
    many = [Demonstration(user(f"Prompt {i % 20}"), str(i)) for i in range(60)]
    split = split_by_prompt(many, 0.4)
    assert split.train
    assert split.heldout
    assert not {d.prompt[0]["content"] for d in split.train} & {d.prompt[0]["content"] for d in split.heldout}


def test_without_demonstrations_it_says_what_to_do(studio):
    with pytest.raises(TrainingError, match="no demonstrations to learn from; import some"):
        make(studio, [])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"learning_rate": 0}, "learning_rate = 0"),
        ({"batch_size": "many"}, "batch_size = 'many'"),
        ({"epochs": float("nan")}, "epochs = nan"),
        ({"lerning_rate": 1}, "unknown setting lerning_rate; did you mean learning_rate"),
        ({"schedule": "step"}, "schedule = 'step'"),
    ],
)
def test_wrong_settings_are_named(values, said):
    with pytest.raises(SettingsError, match=said):
        SFTSettings.parse(values)
