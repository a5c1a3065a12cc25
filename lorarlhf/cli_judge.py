"""The commands that say whether something is any good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from lorarlhf.cli_drift import best_of, policy
from lorarlhf.cli_shared import common, engine_for, open_workspace, with_model
from lorarlhf.errors import AdapterError, LoraRlhfError
from lorarlhf.options import chosen
from lorarlhf.settings import SamplingSettings
from lorarlhf.terminal import counting_bar, say, show_json

if TYPE_CHECKING:
    from lorarlhf.engine.core import Engine
    from lorarlhf.library import SavedAdapter
    from lorarlhf.types import Prompt
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


@judge.command()
@click.argument("adapters", nargs=-1, required=True)
@click.option(
    "--prompts",
    default="64",
    show_default=True,
    metavar="FILE|N",
    help="How many prompts that none of them learned from, or a file of them in any format `import` reads.",
)
@click.option(
    "--by",
    metavar="JUDGE",
    help="script (the starter's scripted rater), reward (the newest reward model, or the one named among ADAPTERS), or "
    "the name of a reward model. [default: script on the starter, else reward]",
)
@with_model(SamplingSettings)
def duel(
    adapters: tuple[str, ...],
    prompts: str,
    by: str | None,
    workspace: str | None,
    preset: Any,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare the answers of two or more adapters, by a judge that is no person.

    ADAPTERS are names, `base` for the bare base, or RUN@STEP for one of the last two checkpoints of a run, as in
    `ppo-1@40`. They answer prompts that neither they nor what they were made from
    learned from. What the judge says is kept apart from people's votes; those are cast in the app, in the tab Judge.
    """
    from lorarlhf.engine.dueling import judge_duel, judge_of_duel
    from lorarlhf.evaluate.contest import field_of, prompts_for
    from lorarlhf.evaluate.duels import SCRIPT

    place = open_workspace(workspace)
    named = [name for name in adapters if by != "reward" or not _is_reward_model(place, name)]
    judges = [name for name in adapters if name not in named]
    if len(judges) > 1:
        raise click.UsageError(f"one reward model judges at a time, not {' and '.join(judges)}")
    wanted = None if prompts.isdigit() else _prompts_of(prompts)
    sampling = chosen(SamplingSettings, options, preset, "sampling")
    with engine_for(workspace, options, preset) as engine, counting_bar("judging", "answer") as progress:
        base = engine.base.identity
        field = field_of(engine.store, place, named, base["fingerprint"])
        asked = prompts_for(engine.store, field, base["name"], wanted)
        if wanted is None:
            asked = asked[: max(1, int(prompts))]
        judge_name = judges[0] if judges else by or (SCRIPT if base["name"] == "starter" else "reward")
        if judge_name == "reward":
            judge_name = _reward_model(place, None).name
        judge_of_duel(engine, judge_name)  # before anything is recorded
        number = engine.store.start_duel(
            field.contestants, base["fingerprint"], asked, sampling.model_dump(mode="json", exclude={"batch_rows"})
        )
        result = judge_duel(engine, number, judge_name, progress)
    left_out = len(wanted) - len(asked) if wanted is not None else 0
    if as_json:
        show_json({**result, "left_out": left_out, "caveats": field.learned.caveats})
        return
    for caveat in field.learned.caveats:
        say(f"{caveat}")
    if left_out:
        say(f"left out {left_out} prompts: double, or an adapter or what it was made from learned from them")
    for one in result["results"]:
        low, high = one["interval"]
        first, second = one["first"]["name"], one["second"]["name"]
        click.echo(
            f"{first} wins {one['win_rate']:.0%} of {one['votes']} against {second} (95 % interval {low:.0%} to "
            f"{high:.0%}, ties half), by {result['judge']}"
        )


@judge.command()
@common
def ratings(workspace: str | None, as_json: bool) -> None:
    """List the results of all blind comparisons, and what they make of every adapter: ratings by Bradley and Terry.

    People, the scripted judge and each reward model stand apart.
    """
    from lorarlhf.checkpoints import list_answering
    from lorarlhf.evaluate import duel_words

    place = open_workspace(workspace)
    with place.store() as store:
        saved = list_answering(place)
        show_json(duel_words.as_json(store, saved)) if as_json else click.echo(duel_words.told(store, saved))


@judge.command()
@click.option(
    "--go-to",
    metavar="ADAPTER",
    help="Go to the round in which this adapter answers, back or forward; deletes nothing.",
)
@common
def rounds(go_to: str | None, workspace: str | None, as_json: bool) -> None:
    """Tell how win rate, accuracy and drift moved over the rounds: who answered, votes, reward model, policy.

    Each reward model is tested on the votes of the round after it. After going to a round stages start from what led
    there where you name nothing.
    """
    from lorarlhf.evaluate import round_words
    from lorarlhf.evaluate.round_figures import on_every_base, round_of
    from lorarlhf.evaluate.rounds import go_to as make_it_the_one
    from lorarlhf.library import list_on

    place = open_workspace(workspace)
    with place.store() as store:
        found = on_every_base(store, place)
        if go_to:
            named = [(base, one) for base, rounds in found.items() if (one := round_of(rounds, go_to))]
            if not named:
                answering = ", ".join(row.name for rounds in found.values() for row in rounds.rows)
                raise AdapterError(f"{go_to} answers in no round; those who do: {answering}")
            base, one = named[-1]
            make_it_the_one(store, list_on(place.adapters_dir, base), base, one.key)
            found = on_every_base(store, place)
    if as_json:
        show_json([{"base": base, **rounds.as_json()} for base, rounds in found.items()])
        return
    for base, rounds in found.items():
        if len(found) > 1:
            click.echo(f"on base {base}")
        click.echo(round_words.told(rounds))


def _is_reward_model(place: Workspace, name: str) -> bool:
    from lorarlhf.checkpoints import is_checkpoint
    from lorarlhf.library import BARE, read_saved

    return name != BARE and not is_checkpoint(name) and read_saved(place.adapters_dir / name).has_head


def _prompts_of(file: str) -> list[Prompt]:
    from lorarlhf.data.importing import read_prompts

    return read_prompts(file)


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
