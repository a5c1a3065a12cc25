"""Drawing tokens against the distribution, and decoding against transformers' own `generate`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from transformers import DynamicCache

from lorarlhf.adapters import AdapterBank
from lorarlhf.base import Base, load_base
from lorarlhf.cache import ROOM, roomy_cache
from lorarlhf.data.chat import encode_prompt
from lorarlhf.forward import context_of
from lorarlhf.sampling import choose, complete, generate
from lorarlhf.settings import LoadSettings, LoraSettings, SamplingSettings
from lorarlhf.types import user
from tests import tiny

LONGEST = 44
"""Of the prompts: longer than the sliding window of 32 of the miniature Gemma."""


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    loaded = {}

    def get(arch: str, bits: int = 16, chat: bool = True) -> Base:
        key = (arch, bits, chat)
        if key not in loaded:
            folder = tiny.save(tmp_path_factory.mktemp("bases") / arch, arch, chat=chat)
            loaded[key] = load_base(LoadSettings(base=str(folder), bits=bits, compute="fp32", device="cpu"))
        return loaded[key]

    return get


def prompts(count: int = 6) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = [3, LONGEST, 17, 1, 36, 9][:count]
    return [torch.randint(0, 256, (n,), generator=generator).tolist() for n in lengths]


def greedy(**extra) -> SamplingSettings:
    return SamplingSettings(temperature=0, **({"max_new_tokens": 16} | extra))


def ending(base: Base, token: int | None) -> Base:
    """Let one token, or none, end answers."""
    return replace(base, eos_ids=frozenset() if token is None else frozenset({token}))


def theirs(base: Base, rows: list[list[int]], new: int, end: int | None) -> list[list[int]]:
    """Let transformers decode greedily, the rows left-padded; cut behind the end token."""
    width = max(map(len, rows))
    ids = torch.tensor([[base.pad_id] * (width - len(r)) + r for r in rows])
    mask = torch.tensor([[0] * (width - len(r)) + [1] * len(r) for r in rows])
    found = base.model.generate(
        input_ids=ids,
        attention_mask=mask,
        do_sample=False,
        max_new_tokens=new,
        eos_token_id=end if end is not None else -1,
        pad_token_id=base.pad_id,
    )[:, width:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in found]


def common_token(rows: list[list[int]]) -> int:
    """Choose the token that ends rows at the most different steps, some at once and some never where possible."""
    tokens = {t for row in rows for t in row}
    return max(sorted(tokens), key=lambda t: len({row.index(t) if t in row else -1 for row in rows}))


# -- one token --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_draws_follow_the_distribution(temperature):
    logits = torch.log(torch.tensor([0.4, 0.1, 0.05, 0.25, 0.2]))
    draws = 20_000
    uniforms = torch.rand(draws, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = choose(logits.expand(draws, -1), uniforms, temperature, 1.0)
    expected = torch.softmax(logits.double() / temperature, -1) * draws
    assert chisquare(drawn.bincount(minlength=5).numpy(), expected.numpy()).pvalue > 0.01


def test_draws_invert_the_cumulative_distribution():
    logits = torch.log(torch.tensor([[0.25, 0.5, 0.25]])).expand(6, -1)
    uniforms = torch.tensor([0.0, 0.2499, 0.2501, 0.7499, 0.7501, 0.9999], dtype=torch.float64)
    assert choose(logits, uniforms, 1.0, 1.0).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("top_p", "reachable"),
    [
        # sorted 0.4, 0.3, 0.2, 0.1: the smallest set that reaches top_p
        (0.39, {3}),
        (0.41, {3, 1}),
        (0.69, {3, 1}),
        (0.71, {3, 1, 0}),
        (0.91, {3, 1, 0, 2}),
        (1.0, {3, 1, 0, 2}),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_it_in_proportion(top_p, reachable):
    probs = torch.tensor([0.2, 0.3, 0.1, 0.4])
    draws = 5_000
    uniforms = (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    counts = choose(probs.log().expand(draws, -1), uniforms, 1.0, top_p).bincount(minlength=4)
    assert set(counts.nonzero().flatten().tolist()) == reachable
    kept = sum(float(probs[i]) for i in reachable)
    for i in reachable:
        assert int(counts[i]) == pytest.approx(draws * float(probs[i]) / kept, abs=2)


@pytest.mark.parametrize("top_p", [0.9, 1.0])
def test_impossible_tokens_are_never_drawn_whatever_rounding_does(top_p):
    logits = torch.full((3, 9), -torch.inf)
    logits[:, 4], logits[:, 6] = 0.0, -0.1
    # 1.0 is where a generator of lower precision may round to.
    drawn = choose(logits, torch.tensor([0.0, 1 - 2**-53, 1.0], dtype=torch.float64), 1.0, top_p)
    assert drawn.tolist() == [4, 6, 6]


def test_temperature_zero_takes_the_likeliest():
    logits = torch.tensor([[0.0, 2.0, 1.0], [3.0, -1.0, 2.9]])
    assert choose(logits, torch.tensor([0.999, 0.999]), 0, 0.5).tolist() == [1, 0]


# -- whole answers against transformers -------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 16], ids=["4bit", "16bit"])
@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_greedy_answers_are_those_of_transformers(load, arch, bits):
    base, rows = load(arch, bits), prompts()
    free = theirs(base, rows, 16, None)
    assert all(len(row) == 16 for row in free)
    ours = complete(ending(base, None), rows, greedy())
    assert [c.tokens for c in ours] == free
    assert not any(c.ended for c in ours)
    # Now with a token that ends rows early, at different steps: those leave batch and cache.
    end = common_token(free)
    expected = theirs(base, rows, 16, end)
    assert len(set(map(len, expected))) > 1
    for batch_rows in (6, 4, 1):
        found = complete(ending(base, end), rows, greedy(batch_rows=batch_rows))
        assert [c.tokens for c in found] == expected
        assert [c.ended for c in found] == [row[-1] == end for row in expected]


def test_prompts_end_and_go_on_beyond_the_sliding_window(load):
    base = load("gemma3")
    window = base.model.config.sliding_window
    assert window < LONGEST
    rows = [list(range(10, 10 + n)) for n in (window - 3, window, window + 1, 2 * window + 5, 2)]
    new = window + 8  # the short ones grow past the window while decoding
    free = theirs(base, rows, new, None)
    end = common_token(free)
    expected = theirs(base, rows, new, end)
    assert max(map(len, expected)) > window
    assert [c.tokens for c in complete(ending(base, end), rows, greedy(max_new_tokens=new))] == expected


@pytest.mark.parametrize("arch", tiny.ARCHS)
def test_answers_to_one_prompt_read_it_once(load, arch):
    base, (long, other, short) = load(arch), prompts()[1:4]
    rows = [long, other, long, short, other, long]
    read = []
    with base.backbone.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape), with_kwargs=True
    ):
        found = [c.tokens for c in complete(ending(base, None), rows, greedy())]
    assert read[:2] == [(3, LONGEST), (6, 1)]
    assert found == theirs(base, rows, 16, None)


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_answers_outgrow_the_room_of_their_cache(load, arch):
    base, rows, new = load(arch), prompts(), 2 * ROOM + 9
    free = theirs(base, rows, new, None)
    end = common_token([row[ROOM:] for row in free])  # some rows leave after the cache has grown
    assert [c.tokens for c in complete(ending(base, end), rows, greedy(max_new_tokens=new))] == theirs(
        base, rows, new, end
    )


def test_the_cache_holds_what_that_of_transformers_holds(load):
    config = load("llama").model.config
    ours, theirs = roomy_cache(config), DynamicCache(config=config)
    copies, rows = set(), 3
    for tokens, kept in [(5, [0, 1, 2]), (1, [2, 0, 0, 1]), (ROOM, [3, 1]), *[(1, [0, 1])] * ROOM, (3 * ROOM, [1])]:
        states = torch.randn(rows, 2, tokens, 4), torch.randn(rows, 2, tokens, 4)
        length, _ = ours.get_mask_sizes(tokens, 0)
        for mine, usual in zip(ours.update(*states, 0), theirs.update(*states, 0), strict=True):
            held = usual.shape[2]
            assert torch.equal(mine[:, :, :held], usual)
            assert mine.shape[2] == length
            assert not mine[:, :, held:].any()
        assert ours.get_seq_length() == theirs.get_seq_length()
        copies.add(ours.layers[0].keys.data_ptr())
        if len(kept) < rows or kept != list(range(rows)):
            for cache in (ours, theirs):
                cache.batch_select_indices(torch.tensor(kept))
            rows = len(kept)
    assert len(copies) < 10  # of 68 updates: the others found room


# -- sampling ---------------------------------------------------------------------------------------------------------

DRAW = SamplingSettings(max_new_tokens=12, seed=5)


@pytest.mark.parametrize("arch", ["llama", "gemma3", "gpt2"])
def test_an_answer_depends_on_its_stream_and_not_on_its_neighbours(load, arch):
    base, rows = load(arch), prompts()
    together = complete(base, rows, DRAW)
    assert complete(base, rows, DRAW) == together
    alone = [complete(base, [row], DRAW, streams=[i])[0] for i, row in enumerate(rows)]
    assert alone == together
    turned = complete(base, rows[::-1], DRAW.model_copy(update={"batch_rows": 4}), streams=[5, 4, 3, 2, 1, 0])
    assert turned[::-1] == together
    assert complete(base, rows, DRAW.model_copy(update={"seed": 6})) != together


def test_equal_prompts_get_different_answers_by_number_and_the_same_by_stream(load):
    base, row = load("llama"), prompts()[2]
    answers = complete(base, [row] * 4, DRAW)
    assert len({tuple(c.tokens) for c in answers}) == 4
    same = complete(base, [row] * 3, DRAW, streams=[7, 7, 8])
    assert same[0] == same[1] != same[2]


def test_drawn_answers_follow_the_model(load):
    """First tokens of many draws against the softmax of the model's own logits."""
    base, row = load("llama"), prompts()[2]
    draws = 3_000
    settings = SamplingSettings(max_new_tokens=1, batch_rows=500, temperature=0.7)
    drawn = torch.tensor([c.tokens[0] for c in complete(base, [row] * draws, settings)])
    with torch.no_grad():
        logits = base.model(input_ids=torch.tensor([row])).logits[0, -1].double()
    expected = torch.softmax(logits / 0.7, -1) * draws
    counts = drawn.bincount(minlength=tiny.VOCAB).double()
    usual = expected > 8
    assert usual.sum() > 30
    pooled = [torch.cat([x[usual], x[~usual].sum()[None]]).numpy() for x in (counts, expected)]
    assert chisquare(*pooled).pvalue > 0.01


def test_the_active_adapter_speaks(load):
    base = load("llama")
    bank = AdapterBank(base)
    bank.create("loud", LoraSettings(rank=2, alpha=4))
    generator = torch.Generator().manual_seed(0)
    bank.load_state("loud", {k: torch.randn(v.shape, generator=generator) for k, v in bank.state("loud").items()})
    bare = complete(base, prompts(3), greedy())
    with bank.activate("loud"):
        loud = complete(base, prompts(3), greedy())
        assert [c.tokens for c in loud] == [c.tokens for c in complete(base, prompts(3), greedy(batch_rows=1))]
    assert loud != bare
    assert complete(base, prompts(3), greedy()) == bare
    bank.delete("loud")


def test_each_prompt_gets_n_answers_in_order(load):
    base = load("llama")
    asked = [user("Hello?"), user("A much longer question than the first one?"), user("Why?")]
    found = generate(base, asked, 2, DRAW)
    assert [len(answers) for answers in found] == [2, 2, 2]
    for i, prompt in enumerate(asked):
        for k in range(2):
            ids = encode_prompt(base.tokenizer, prompt)
            assert found[i][k] == complete(base, [ids], DRAW, streams=[2 * i + k])[0]
    assert generate(base, [], 2, DRAW) == []


def test_long_prompts_are_cut_when_asked(load):
    base = load("llama")
    (cut,) = generate(base, [user("x" * 90)], 1, greedy(), max_prompt_tokens=20)
    ids = encode_prompt(base.tokenizer, user("x" * 90), 20)
    assert len(ids) == 20
    assert cut == complete(base, [ids], greedy())


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_prompts_leave_room_for_the_answer_within_the_context(load, arch):
    """GPT-2 has no positions beyond its context at all."""
    base = load(arch)
    (found,) = generate(base, [user("x" * 400)], 1, greedy())[0]
    ids = encode_prompt(base.tokenizer, user("x" * 400), context_of(base) - 16)
    assert len(ids) == 256 - 16
    assert found == complete(base, [ids], greedy())[0]


@pytest.mark.parametrize("arch", ["gpt2", "llama"])
def test_an_answer_ends_where_the_context_does_whoever_is_beside_it(load, arch):
    base = ending(load(arch), None)
    long, short = [5] * (context_of(base) - 3), [6, 7]
    cut, whole = complete(base, [long, short], greedy(max_new_tokens=8))
    assert (len(cut.tokens), cut.ended, len(whole.tokens)) == (3, False, 8)


# -- how answers end --------------------------------------------------------------------------------------------------


def test_an_answer_stops_at_a_stop_text_without_showing_it(load):
    base = ending(load("llama"), None)
    free = complete(base, prompts(), greedy())
    text = base.tokenizer.decode(free[2].tokens[3:5], skip_special_tokens=True)
    assert len(text) >= 2  # a text that two tokens make together
    stopped = complete(base, prompts(), greedy(stop=(text,)))
    place = base.tokenizer.decode(free[2].tokens).index(text)
    assert len(stopped[2].tokens) <= 5
    assert stopped[2].tokens == free[2].tokens[: len(stopped[2].tokens)]
    assert stopped[2].ended
    assert text not in stopped[2].text
    assert stopped[2].text == base.tokenizer.decode(free[2].tokens)[:place].strip()
    untouched = [i for i, c in enumerate(free) if text not in base.tokenizer.decode(c.tokens)]
    assert untouched
    assert all(stopped[i] == free[i] for i in untouched)


def test_an_empty_stop_text_stops_nothing(load):
    base = load("llama")
    assert complete(base, prompts(3), greedy(stop=("",))) == complete(base, prompts(3), greedy())


def test_the_end_mark_is_in_the_tokens_and_not_in_the_text(load):
    base = load("llama")
    row = prompts()[2]
    first = complete(ending(base, None), [row], greedy())[0].tokens[0]
    (found,) = complete(ending(base, first), [row], greedy())
    assert (found.tokens, found.ended) == ([first], True)
    (one,) = complete(ending(base, None), [row], greedy(max_new_tokens=1))
    assert (one.tokens, one.ended) == ([first], False)


def test_a_base_without_chat_template_stops_where_the_next_turn_begins(load, monkeypatch):
    base = load("llama", chat=False)
    said = [*base.tokenizer("fine.\nUser: more", add_special_tokens=False)["input_ids"]]
    step = iter(said)
    monkeypatch.setattr("lorarlhf.sampling.choose", lambda logits, *_: torch.tensor([next(step)]))
    (found,) = complete(base, [[1, 2, 3]], SamplingSettings(max_new_tokens=40))
    assert (found.text, found.ended) == ("fine.", True)
    assert base.tokenizer.decode(found.tokens) == "fine.\nUser:"


def test_watchers_see_every_token_by_row_and_may_stop(load):
    base, rows = load("llama"), prompts(3)
    seen: dict[int, list[int]] = {}

    def watch(tokens):
        for row, token in tokens.items():
            seen.setdefault(row, []).append(token)

    free = complete(ending(base, None), rows, greedy())
    end = common_token([c.tokens for c in free])
    found = complete(ending(base, end), rows, greedy(batch_rows=2), on_step=watch)
    assert [seen[i] for i in range(3)] == [c.tokens for c in found]

    def stop(tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        complete(base, rows, greedy(), on_step=stop)
