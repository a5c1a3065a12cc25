"""The policies of a desk and how far they drifted, and best-of-n tried out before PPO. Knows no Gradio.

Both are functions of rows; they are computed anew only when those rows were written anew.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lorarlhf.errors import LoraRlhfError
from lorarlhf.evaluate.bestof import BestOf, best_of, best_of_key
from lorarlhf.evaluate.drift import Drift, drift_key, drift_of
from lorarlhf.evaluate.health import judge_of
from lorarlhf.library import BARE, SavedAdapter
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.judge.at_work import Measurement


class DriftView:
    """The figures of policies and the try-outs, shared by all pages."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._lock = threading.Lock()
        self._known: dict[str, tuple[str, Any]] = {}
        self.measurement = Measurement()

    def news(self) -> str:
        """Write what changes whenever anything does that a page shows, whatever it has chosen."""
        lists = self.policies(), self.answering(), self.rewards()
        return str((lists, self.measurement.now(), self.desk.store.changes()))

    # -- which ones there are ---------------------------------------------------------------------------------

    def policies(self) -> list[str]:
        """List the policies of this base, newest first."""
        return [saved.name for saved in reversed(self.desk.adapters("ppo"))]

    def answering(self) -> list[str]:
        """List what can answer: SFT adapters and policies, SFT adapters first, newest first; then the bare base."""
        return [s.name for stage in ("sft", "ppo") for s in reversed(self.desk.adapters(stage))] + [BARE]

    def rewards(self) -> list[str]:
        """List the reward models of this base, newest first."""
        return [saved.name for saved in reversed(self.desk.adapters("reward"))]

    def _saved(self, name: str) -> SavedAdapter | None:
        return next((saved for saved in self.desk.adapters() if saved.name == name), None)

    # -- their figures ----------------------------------------------------------------------------------------

    def drift(self, name: str) -> Drift | None:
        """Give the figures of a policy; None where it was not measured, or is gone."""
        saved = self._saved(name)
        return self._computed(drift_key(saved), lambda: drift_of(self.desk.store, saved)) if saved else None

    def best_of(self, adapter: str, reward: str) -> BestOf | None:
        """Give what a try-out came to; None where there was none."""
        judge, answers = self._saved(reward), self._saved(adapter)
        if judge is None or (answers is None and adapter != BARE):
            return None
        key = best_of_key(answers, judge_of(judge))
        return self._computed(key, lambda: best_of(self.desk.store.get_meta(key)))

    def _computed(self, key: str, compute: Callable[[], Any]) -> Any:
        rows = self.desk.store.query("SELECT value FROM meta WHERE key = ?", (key,))
        if not rows:
            return None
        stamp = str(hash(rows[0]["value"]))
        with self._lock:
            known = self._known.get(key)
            if known is None or known[0] != stamp:
                known = self._known[key] = (stamp, compute())
            return known[1]

    # -- measuring --------------------------------------------------------------------------------------------

    def measure(self, policy: str) -> None:
        """Have the engine measure a policy; raise `LoraRlhfError` where that cannot be."""
        if policy not in self.policies():
            raise LoraRlhfError("there is no such policy on this base; train one with PPO first")
        self.measurement.begin(("drift", policy), lambda: self.desk.engine.drift(policy))

    def try_out(self, adapter: str, reward: str) -> None:
        """Have the engine try best-of-n out; raise `LoraRlhfError` where that cannot be."""
        if reward not in self.rewards():
            raise LoraRlhfError("there is no reward model to choose with yet; train one first")
        if adapter not in self.answering():
            raise LoraRlhfError(f"there is no adapter {adapter} on this base any more")
        about = ("best_of", adapter, reward)
        self.measurement.begin(about, lambda: self.desk.engine.best_of(adapter, reward))
