"""Which adapters answer, and how answers are drawn, as the person chose. Knows no Gradio."""

from __future__ import annotations

from typing import Any

from lorarlhf.library import BARE, SavedAdapter
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.rate.preferences import Preferences
from lorarlhf.ui.rate.sheets import Recipe


def recipe_of(desk: Desk, chosen: Preferences) -> Recipe:
    """Say how answers are drawn now."""
    pair = (_found(desk, chosen.first), _found(desk, chosen.second or chosen.first))
    own = {"temperature": chosen.temperature, "max_new_tokens": chosen.max_new_tokens}
    return Recipe(
        base=desk.fingerprint,
        adapters=tuple(pair[i % 2] for i in range(chosen.answers)),
        sampling=desk.sampling(**{name: value for name, value in own.items() if value is not None}),
        round=len(desk.adapters("ppo")),
    )


def offered(desk: Desk) -> dict[str, Any]:
    """List the adapters that can be chosen, as value and label, and what is taken where nothing is chosen."""
    newest, default = _found(desk, "")[0] or BARE, desk.sampling()
    names = [adapter.name for adapter in _answering(desk)]
    return {
        "adapters": [["", f"current model ({newest})"], [BARE, "base, no adapter"], *([name, name] for name in names)],
        "temperature": default.temperature,
        "max_new_tokens": default.max_new_tokens,
    }


def _answering(desk: Desk) -> list[SavedAdapter]:
    return [adapter for adapter in desk.adapters() if adapter.stage != "reward"]


def _found(desk: Desk, name: str) -> tuple[str, str]:
    """Find an adapter's name and hash; in place of one that is gone the round's, and where there is none the base."""
    saved = [] if name == BARE else _answering(desk)
    own = [adapter for adapter in saved if adapter.name == name]
    newest = [found for stage in ("ppo", "sft") if saved and (found := desk.newest(stage))]
    best = next(iter([*own, *newest]), None)
    return (best.name, best.hash) if best else ("", desk.fingerprint)
