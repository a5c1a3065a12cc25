"""The commands that say whether something is any good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lorarlhf.cli_drift import best_of, policy
from lorarlhf.cli_shared import engine_for, open_workspace, with_model
from lorarlhf.errors import AdapterError, LoraRlhfError
from lorarlhf.options import chosen
from lorarlhf.settings import SamplingSettings
from lorarlhf.terminal import counting_bar, say, show_json

if TYPE_CHECKING:
    from lorarlhf.engine.core import Engine
    from lorarlhf.library import SavedAdapter
    from lorarlhf.workspace import Workspace


@click.group()
def judge() -> None:
    """Say whether what was trained is any good."""


@judge.command()
@click.argument("adapter", required=False)
@click.option(
    "--prompts",
    "prompts",
    default=32,
    show_default=True,
    type=click.IntRange(0, 10_000),
    help="Held-out prompts that base, SFT adapter and policy answer, to compare their scores; 0 leaves that out.",
)
@with_model(SamplingSettings)
def reward(
    adapter: str | None, prompts: int, workspace: str | None, preset: Any, as_json: bool, **options: Any
) -> None:
    """Measure a reward model against the votes it never learned from, and say whether PPO on it is wise.

    ADAPTER is the newest reward model unless you name one. What was scored before is not scored again.
    """
    from lorarlhf.engine.judging import judge as score
    from lorarlhf.evaluate.health import health_of
    from lorarlhf.evaluate.telling import told
    from lorarlhf.evaluate.warnings import warnings

    saved = _reward_model(open_workspace(workspace), adapter)
    sampling = chosen(SamplingSettings, options, preset, "sampling")
    with engine_for(workspace, options, preset) as engine, counting_bar("judging", "answer") as progress:
        score(engine, saved.name, sampling, prompts, progress)
        health = health_of(engine.store, saved)
    if as_json:
        show_json({**health.as_json(), "warnings": [remark._asdict() for remark in warnings(health)]})
    else:
        click.echo(told(health))


judge.add_command(policy)
judge.add_command(best_of)


def _reward_model(place: Workspace, name: str | None) -> SavedAdapter:
    """Find the reward model asked for, else the newest one."""
    from lorarlhf.library import list_saved, read_saved

    if name:
        saved = read_saved(place.adapters_dir / name)
        if not saved.has_head:
            raise AdapterError(f"adapter {name} is no reward model; `lorarlhf adapters` lists what there is")
        return saved
    found = [saved for saved in list_saved(place.adapters_dir) if saved.stage == "reward"]
    if not found:
        raise AdapterError("no reward model yet; train one first with `lorarlhf train reward`")
    return found[-1]


def warn_before_ppo(engine: Engine, asked: str) -> None:
    """Say on stderr what speaks against PPO on the reward model it would take; it goes on all the same."""
    from lorarlhf.engine.judging import judge as score
    from lorarlhf.engine.training import parent_of
    from lorarlhf.evaluate.health import health_of
    from lorarlhf.evaluate.warnings import warnings

    if not engine.studio.team.is_main:
        return
    try:
        name = parent_of(engine, asked, "reward")
        saved = engine.saved(name)
        with counting_bar(f"judging {name}", "answer") as progress:
            score(engine, name, SamplingSettings(), 0, progress, heldout_only=True)
        found = warnings(health_of(engine.store, saved))
    except LoraRlhfError:
        return  # the run itself says what is wrong, and what to do
    for remark in found:
        say(f"  ! {name}: {remark}")
    if found:
        say(f"  `lorarlhf judge reward {name}` says more; PPO goes on")
