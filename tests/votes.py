"""Hypothesis strategies for values people make."""

from __future__ import annotations

from hypothesis import strategies as st

from lorarlhf.types import Comparison, Demonstration, Message, Origin, Outcome, Ranking

texts = st.text(max_size=12)
names = st.text(max_size=6)
json_values = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), texts, st.lists(texts, max_size=2))


def prompts() -> st.SearchStrategy:
    """Draw conversations of one to three turns, with whatever text."""
    message = st.builds(
        lambda role, content: Message(role=role, content=content),
        st.sampled_from(["system", "user", "assistant"]),
        texts,
    )
    return st.lists(message, min_size=1, max_size=3).map(tuple)


def origins() -> st.SearchStrategy:
    """Draw origins with every field in use."""
    return st.builds(
        Origin,
        rater=names,
        round=st.integers(0, 99),
        source=names,
        seconds=st.none() | st.floats(0, 1e6),
        adapters=st.lists(names, max_size=2).map(tuple),
        adapter_hashes=st.lists(names, max_size=2).map(tuple),
        sampling=st.dictionaries(names, json_values, max_size=2),
        note=texts,
    )


def comparisons() -> st.SearchStrategy:
    """Draw comparisons that repeat no earlier one."""
    return st.builds(
        Comparison,
        prompt=prompts(),
        a=texts,
        b=texts,
        outcome=st.sampled_from(Outcome),
        strength=st.integers(1, 5),
        left=st.sampled_from(["a", "b"]),
        criteria=st.dictionaries(names, st.sampled_from(Outcome), max_size=2),
        reasons=st.lists(texts, max_size=2).map(tuple),
        repeats=st.none(),
        origin=origins(),
    )


def rankings() -> st.SearchStrategy:
    """Draw rankings of two to four answers."""
    pairs = st.lists(st.tuples(texts, st.integers(1, 4)), min_size=2, max_size=4)
    return st.builds(
        lambda prompt, answers, origin: Ranking(
            prompt, tuple(a for a, _ in answers), tuple(r for _, r in answers), origin
        ),
        prompts(),
        pairs,
        origins(),
    )


def demonstrations() -> st.SearchStrategy:
    """Draw demonstrations."""
    return st.builds(Demonstration, prompts(), texts, origins())
