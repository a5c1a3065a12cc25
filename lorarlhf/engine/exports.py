"""Export adapters of a workspace, and take in those of others, as terminal and app ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lorarlhf.export.exporting import Order, export
from lorarlhf.export.origin import load_of
from lorarlhf.export.probe import Conversation, Setup, conversations_of, measure
from lorarlhf.foreign import take_in
from lorarlhf.library import SavedAdapter, read_saved
from lorarlhf.settings import LoadSettings
from lorarlhf.store import Store
from lorarlhf.workspace import Workspace

if TYPE_CHECKING:
    from lorarlhf.engine.core import Engine


def export_adapter(
    workspace: Workspace,
    store: Store,
    load: LoadSettings,
    adapter: str,
    dest: Path,
    form: str,
    *,
    force: bool = False,
    base: str = "",
    engine: Engine | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Write an adapter of the workspace as other programs load it, checked → what was written and found.

    `load` is how the workspace loads bases, `base` where this adapter's lies if that is another folder. An `engine`
    that has the base in memory answers for the adapter here; without one, a process is started for it.
    """
    saved = read_saved(workspace.adapters_dir / adapter)
    share = saved.card.get("settings", {}).get("heldout_share", 0.1)
    conversations = conversations_of(store, float(share))
    order = Order(saved, dest, form, load_of(saved, load, base), conversations, force)

    def ours(saved: SavedAdapter, conversations: Sequence[Conversation], place: Path) -> Setup:
        assert engine is not None
        with engine.borrowed(saved.name) as name:
            assert name is not None
            return measure(engine.base, engine.bank, name, conversations, place)

    return export(order, ours if engine and _has_base(engine, saved) else None, tell)


def _has_base(engine: Engine, saved: SavedAdapter) -> bool:
    """Tell whether the base in memory is the adapter's, with as many bits."""
    if "base" not in vars(engine):
        return False
    here, made_on = engine.base.identity, saved.card["base"]
    return bool(here["fingerprint"] == made_on["fingerprint"] and here["bits"] == made_on.get("bits", 4))


def import_adapter(
    workspace: Workspace, store: Store, load: LoadSettings, source: str, role: str, name: str = ""
) -> dict[str, Any]:
    """Take an adapter of another program into the workspace → its name and what is to be said about it."""
    return take_in(workspace.adapters_dir, source, role, load, name, taken=store.run_names(), promised=store.promised())
