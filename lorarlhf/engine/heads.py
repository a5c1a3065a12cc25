"""The ensemble of heads of a reward model: hidden states of the votes, read once and kept, and heads fitted to them.

States are kept in `cache/` of the workspace, by the content of the reward model: nothing there is ever the only copy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lorarlhf.data.cutting import Budget
from lorarlhf.data.pairs import Pair
from lorarlhf.data.tokens import Row
from lorarlhf.engine.core import Engine
from lorarlhf.errors import AdapterError
from lorarlhf.evaluate.ensemble import FEWEST_PAIRS, MOST_PAIRS, Floats, bootstrap, on_scale
from lorarlhf.evaluate.health import judge_of
from lorarlhf.evaluate.votes import voted_pairs
from lorarlhf.forward import context_of, last_states, read_head
from lorarlhf.library import SavedAdapter
from lorarlhf.store.scores import answer_key
from lorarlhf.types import Prompt, prompt_key, split_key

CACHE = "cache"


@dataclass(frozen=True)
class Heads:
    """A reward model's own head and the ensemble beside it."""

    adapter: str
    heads_KH: Floats | None
    """None where there are too few votes."""
    voted_KM: Floats
    """What the heads say of the answers voted on, unscaled."""
    known_M: Floats
    """What the reward model says of them."""

    @property
    def size(self) -> int:
        """Number of heads in the ensemble."""
        return 0 if self.heads_KH is None else len(self.heads_KH)

    @property
    def spread(self) -> float:
        """Standard deviation of the scores of the answers voted on."""
        return float(self.known_M.std()) if len(self.known_M) else 0.0

    def score(self, engine: Engine, rows: Sequence[Row], budget: Budget) -> tuple[list[float], list[list[float]]]:
        """Score rows → by the reward model, and per row by each head, on the reward model's scale."""
        states_NH = _states(engine, self.adapter, rows, budget)
        own = _own(engine, self.adapter, states_NH)
        if self.heads_KH is None:
            return own.tolist(), [[] for _ in rows]
        said_KN = self.heads_KH @ states_NH.T.astype(np.float64)
        return own.tolist(), on_scale(said_KN, self.voted_KM, self.known_M).T.tolist()


def pairs_for(engine: Engine) -> list[Pair]:
    """Choose the votes that heads are fitted to."""
    return voted_pairs(engine.store)[-MOST_PAIRS:]


def heads_of(engine: Engine, saved: SavedAdapter, pairs: Sequence[Pair], budget: Budget) -> Heads:
    """Fit the ensemble of a reward model to votes."""
    if len(pairs) < FEWEST_PAIRS:
        return Heads(saved.name, None, np.zeros((0, 0)), np.zeros(0))
    answers = {_key(p.prompt, text): (p.prompt, text) for p in pairs for text in (p.chosen, p.rejected)}
    states = _kept_states(engine, saved, answers, budget)
    differences_PH = np.stack([states[_key(p.prompt, p.chosen)] - states[_key(p.prompt, p.rejected)] for p in pairs])
    heads_KH = bootstrap(
        differences_PH.astype(np.float64),
        np.array([0.5 if p.tie else 1.0 for p in pairs]),
        np.array([p.weight for p in pairs]),
        [split_key(p.prompt) for p in pairs],
    )
    voted_MH = np.stack([states[key] for key in answers])
    own_M = _own(engine, saved.name, voted_MH)
    return Heads(saved.name, heads_KH, heads_KH @ voted_MH.T.astype(np.float64), own_M)


def _key(prompt: Prompt, answer: str) -> str:
    return f"{prompt_key(prompt)} {answer_key(answer)}"


def _states(engine: Engine, adapter: str, rows: Sequence[Row], budget: Budget) -> np.ndarray:
    with engine.borrowed(adapter) as name, engine.bank.activate(name):
        states_NH: np.ndarray = last_states(engine.base, rows, budget).numpy()
    if not np.isfinite(states_NH).all():
        raise AdapterError(f"adapter {adapter} computes what is no number; train it again at a lower rate")
    return states_NH


def _own(engine: Engine, adapter: str, states_NH: np.ndarray) -> Floats:
    with engine.borrowed(adapter), torch.no_grad():
        head = engine.bank.heads[adapter]
        scores_N = read_head(head, torch.from_numpy(states_NH).to(head.weight.device))
        return np.asarray(scores_N.cpu().numpy(), dtype=np.float64)


# -- what is kept -----------------------------------------------------------------------------------------------


def _kept_states(
    engine: Engine, saved: SavedAdapter, answers: dict[str, tuple[Prompt, str]], budget: Budget
) -> dict[str, np.ndarray]:
    """Read the states of answers, those from the cache that are there."""
    path = engine.workspace.path / CACHE / f"states {judge_of(saved)}.safetensors"
    kept = _read(path, engine.base.hidden_size)
    missing = [key for key in answers if key not in kept]
    if missing:
        rows = [engine.studio.row(*answers[key], context_of(engine.base)) for key in missing]
        found = _states(engine, saved.name, rows, budget)
        kept |= dict(zip(missing, found, strict=True))
        _write(path, {key: kept[key] for key in answers})
    return kept


def _read(path: Path, width: int) -> dict[str, np.ndarray]:
    """Read what is kept; whatever is damaged is computed again."""
    try:
        return {key: state for key, state in load_file(path).items() if state.shape == (width,)}
    except (OSError, SafetensorError):
        return {}


def _write(path: Path, states: dict[str, np.ndarray]) -> None:
    aside = path.with_suffix(".new")
    try:
        path.parent.mkdir(exist_ok=True)
        save_file({key: np.ascontiguousarray(state) for key, state in states.items()}, aside)
        os.replace(aside, path)
    except (OSError, SafetensorError):
        aside.unlink(missing_ok=True)  # a full disk: it is computed again next time
