"""The commands that say whether a policy has drifted, and what best-of-n would gain before there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from lorarlhf.cli_shared import engine_for, with_model
from lorarlhf.errors import AdapterError
from lorarlhf.terminal import counting_bar, show_json


def drawn(prompts: int) -> Callable[[Callable], Callable]:
    """Add the options of commands that draw answers to measure."""

    def decorate(command: Callable) -> Callable:
        command = click.option(
            "--seed", default=0, show_default=True, type=click.IntRange(0), help="Same seed, same answers."
        )(command)
        command = click.option(
            "--max-new-tokens",
            type=click.IntRange(1, 32768),
            help="Longest answer, in tokens. [default: as the adapter was trained]",
        )(command)
        return click.option(
            "--prompts",
            default=prompts,
            show_default=True,
            type=click.IntRange(1, 10_000),
            help="Held-out prompts to answer.",
        )(command)

    return decorate


@click.command()
@click.argument("adapter")
@drawn(32)
@with_model()
def policy(
    adapter: str,
    prompts: int,
    max_new_tokens: int | None,
    seed: int,
    workspace: str | None,
    preset: Any,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure how far a policy went from its reference, what it gained, and whether it fools its reward model.

    Both answer the same held-out prompts: reward and the least of an ensemble against KL, length, entropy,
    repetition, what it forgot. What was measured before is told at once.
    """
    from lorarlhf.engine.drifting import judge_policy
    from lorarlhf.evaluate.drift import drift_of
    from lorarlhf.evaluate.drift_alarms import alarms
    from lorarlhf.evaluate.drift_telling import told

    with engine_for(workspace, options, preset) as engine, counting_bar("judging", "answer") as progress:
        judge_policy(engine, adapter, prompts, progress, max_new_tokens=max_new_tokens, seed=seed)
        drift = drift_of(engine.store, engine.saved(adapter))
    assert drift is not None
    if as_json:
        show_json({**drift.as_json(), "alarms": [remark._asdict() for remark in alarms(drift)]})
    else:
        click.echo(told(drift))


@click.command("best-of")
@click.argument("adapter")
@click.option("--reward", required=True, metavar="NAME", help="Reward model that chooses.")
@click.option("-n", "--n", default=16, show_default=True, type=click.IntRange(2, 1024), help="Answers to each prompt.")
@drawn(16)
@with_model()
def best_of(
    adapter: str,
    reward: str,
    n: int,
    prompts: int,
    max_new_tokens: int | None,
    seed: int,
    workspace: str | None,
    preset: Any,
    as_json: bool,
    **options: Any,
) -> None:
    """Try a reward model out before PPO: what choosing the best of n answers of ADAPTER would gain, and at which KL.

    ADAPTER is an SFT adapter or a policy; 'base' is the bare base.
    """
    from lorarlhf.engine.best_of import judge_best_of
    from lorarlhf.evaluate.bestof import best_of_in, remarks, told

    with engine_for(workspace, options, preset) as engine, counting_bar("judging", "answer") as progress:
        judge_best_of(engine, adapter, reward, n, prompts, progress, max_new_tokens=max_new_tokens, seed=seed)
        answering = engine.saved(adapter) if adapter != "base" else None
        found = best_of_in(engine.store, answering, engine.saved(reward))
    if found is None:
        raise AdapterError(f"nothing was kept of {adapter}; try again")
    if as_json:
        show_json({**found.as_json(), "warnings": [remark._asdict() for remark in remarks(found)]})
    else:
        click.echo(told(found))
