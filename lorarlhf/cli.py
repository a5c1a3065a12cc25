"""The command line. Thin: it reads options, calls the engine or the store, and shows the result.

Nothing here imports torch before a command needs a model, so that `lorarlhf --help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Any

import click

from lorarlhf import __version__
from lorarlhf.cli_adapters import adapters, export_
from lorarlhf.cli_judge import judge
from lorarlhf.cli_runs import plan, resume, runs, train
from lorarlhf.cli_shared import common, engine_for, load_for, open_workspace, with_model
from lorarlhf.errors import LoraRlhfError, RunPaused
from lorarlhf.options import chosen
from lorarlhf.settings import SamplingSettings
from lorarlhf.terminal import (
    counting_bar,
    say,
    show_json,
    table,
)

if TYPE_CHECKING:
    pass


@click.group(
    invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="lorarlhf")
@click.pass_context
def cli(context: click.Context) -> None:
    """Align a language model by hand on one GPU, or on none.

    Rate answers, train LoRA adapters on one frozen 4-bit base (SFT, reward model, PPO), export them.
    Without a command it opens the app; `lorarlhf demo` shows the whole loop in a few minutes.
    """
    if context.invoked_subcommand is None:
        context.invoke(ui)


@cli.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; others than this need --auth."
)
@click.option("--port", type=click.IntRange(1, 65535), help="Port to listen on. [default: 7860 or the next free one]")
@click.option("--auth", metavar="USER:PASS", help="Ask for this name and password.")
@click.option("--no-browser", is_flag=True, help="Do not open the page in a browser.")
@with_model()
def ui(
    workspace: str | None,
    preset: Any,
    as_json: bool,
    host: str,
    port: int | None,
    auth: str | None,
    no_browser: bool,
    **options: Any,
) -> None:
    """Open the app: rate, train, compare and export in a browser."""
    user, colon, password = (auth or "").partition(":")
    if auth is not None and not (user and colon and password):
        raise click.UsageError("--auth wants a name and a password: --auth USER:PASS")
    from lorarlhf.ui.launch import serve

    place = open_workspace(workspace)
    serve(
        place,
        load_for(place, options, preset),
        host=host,
        port=port,
        auth=(user, password) if auth else None,
        browser=not no_browser,
        say=show_json if as_json else say,
    )


# -- data -----------------------------------------------------------------------------------------------------


@cli.command("import")
@click.argument("file")
@click.option(
    "--as",
    "kind",
    required=True,
    type=click.Choice(["comparisons", "demonstrations", "prompts", "all"]),
    help="What to take from it; `all` restores a lossless export.",
)
@click.option("--skip-bad", is_flag=True, help="Leave bad rows out and count them, instead of refusing the file.")
@common
def import_(file: str, kind: str, skip_bad: bool, workspace: str | None, as_json: bool) -> None:
    """Take in votes, demonstrations or prompts.

    FILE is JSON, JSONL, JSONL.gz, CSV, Parquet, plain text, a data set on the Hub, or `starter` for what comes with
    the starter base. The format is recognised. All or nothing: bad rows are named and nothing is changed.
    """
    from lorarlhf.data.importing import import_file
    from lorarlhf.starter import shipped_file

    path = shipped_file(kind) if file == "starter" else file
    with open_workspace(workspace).store() as store, counting_bar("reading", "row") as progress:
        report = import_file(
            store, path, kind, progress, skip_bad=skip_bad, on_read=lambda said: click.echo(said, err=True)
        )
    if as_json:
        show_json(report)
    else:
        bad = f", left out {report['bad']} bad rows" if report["bad"] else ""
        what = "rows" if kind == "all" else kind
        click.echo(f"added {report['added']} {what}, {report['duplicates']} known already{bad} ({report['format']})")


@cli.command()
@click.option("--export", "target", metavar="FILE", help="Write the votes to a file.")
@click.option(
    "--format",
    "form",
    default="lossless",
    type=click.Choice(["lossless", "preference", "demonstrations", "ranking", "csv"]),
    help="lossless imports back to the same rows; preference is what trainers read. [default: lossless]",
)
@click.option("--force", is_flag=True, help="Overwrite FILE.")
@click.option(
    "--other-bases",
    type=click.Choice(["on", "off"]),
    help="Whether what was said about other bases counts for each base too; kept in the workspace. [default: off]",
)
@common
def votes(
    target: str | None, form: str, force: bool, other_bases: str | None, workspace: str | None, as_json: bool
) -> None:
    """Count the votes, or export them. Votes given in the app belong to the base that answered."""
    with open_workspace(workspace).store() as store:
        if other_bases:
            from lorarlhf.store import OTHERS

            store.set_meta(OTHERS, other_bases == "on")
        if target:
            from lorarlhf.data.exporting import write_votes

            result = write_votes(store, target, form, force=force)
            text = f"wrote {result['written']} rows to {target}"
        else:
            result = {**store.counts(), "outcomes": store.outcomes()}
            counts = [{"what": key, "rows": value} for key, value in store.counts().items()]
            text = table(counts, ["what", "rows"])
    show_json(result) if as_json else click.echo(text)


# -- the model ------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--prompts", "file", metavar="FILE", help="Prompts to answer; any format `import` reads.")
@click.option("--prompt", "text", metavar="TEXT", help="One prompt to answer.")
@click.option("-n", "n", default=2, show_default=True, type=click.IntRange(1, 1000), help="Answers per prompt.")
@click.option("--adapter", default="", metavar="NAME", help="Adapter that answers; 'base' or none is the bare base.")
@with_model(SamplingSettings)
def generate(
    file: str | None,
    text: str | None,
    n: int,
    adapter: str,
    workspace: str | None,
    preset: Any,
    as_json: bool,
    **options: Any,
) -> None:
    """Draw answers: one object per prompt, {"prompt", "completions"}."""
    if (file is None) == (text is None):
        raise click.UsageError("pass either --prompts FILE or --prompt TEXT")
    if text is not None and not text.strip():
        raise click.UsageError("--prompt is empty; write what is to be answered")
    from lorarlhf.data.importing import read_prompts
    from lorarlhf.types import plain, user

    prompts = [user(text)] if text is not None else read_prompts(str(file))
    sampling = chosen(SamplingSettings, options, preset, "sampling")
    with engine_for(workspace, options, preset) as engine, counting_bar("answering", "token") as progress:
        drawn = 0

        def on_step(tokens: dict[int, int]) -> None:
            nonlocal drawn
            drawn += len(tokens)
            progress(drawn, None)

        answers = engine.generate(prompts, n, sampling, adapter, on_step)
    rows = [{"prompt": plain(p), "completions": [c.text for c in a]} for p, a in zip(prompts, answers, strict=True)]
    if as_json:
        show_json(rows)
        return
    for prompt, drawn_answers in zip(prompts, answers, strict=True):
        click.echo(f"\n> {prompt[-1]['content']}")
        for number, completion in enumerate(drawn_answers, 1):
            click.echo(f"  {number}. {completion.text}")


@cli.command()
@click.option("--adapter", required=True, metavar="NAME", help="Reward adapter.")
@click.option("--input", "file", required=True, metavar="FILE", help='Rows of {"prompt", "response"}.')
@with_model()
def score(adapter: str, file: str, workspace: str | None, preset: Any, as_json: bool, **options: Any) -> None:
    """Score answers with a reward model."""
    from lorarlhf.data.importing import read_demonstrations
    from lorarlhf.types import plain

    rows = read_demonstrations(file)
    with engine_for(workspace, options, preset) as engine:
        scores = engine.score(adapter, [(row.prompt, row.response) for row in rows])
    found = [
        {"prompt": plain(row.prompt), "response": row.response, "score": value}
        for row, value in zip(rows, scores, strict=True)
    ]
    if as_json:
        show_json(found)
        return
    for row in found:
        click.echo(f"{row['score']:+8.3f}  {row['response']}")


@cli.command()
@click.option("--votes", default=400, show_default=True, type=click.IntRange(20, 100_000), help="Scripted votes.")
@click.option("--noise", default=0.1, show_default=True, type=click.FloatRange(0, 0.5), help="Share of wrong votes.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of everything.")
@common
def demo(votes: int, noise: float, seed: int, workspace: str | None, as_json: bool) -> None:
    """Run the whole loop on the starter base with a scripted rater, and show before and after.

    It works in a new folder `demos/N` of the workspace, so your own votes stay your own.
    """
    from lorarlhf.engine.demo import run_demo, show_demo

    result = run_demo(open_workspace(workspace), votes=votes, noise=noise, seed=seed, say=say)
    show_json(result) if as_json else click.echo(show_demo(result))


@cli.command()
@common
def doctor(workspace: str | None, as_json: bool) -> None:
    """Say what this machine has, what fits, what is missing and how to mend it."""
    from lorarlhf.doctor import examine, render
    from lorarlhf.workspace import Workspace

    findings = examine(Workspace(workspace).path)
    show_json(findings) if as_json else click.echo(render(findings))


# -- the edge -------------------------------------------------------------------------------------------------


for _command in (train, plan, resume, runs, judge, adapters, export_):
    cli.add_command(_command)


def main() -> None:
    """Run the command line: 0 done, 1 a failure in one line, 2 wrong usage."""
    try:
        cli.main(prog_name="lorarlhf", standalone_mode=False)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except click.Abort:
        _fail("stopped")
    except click.ClickException as error:
        error.show()
        sys.exit(2 if isinstance(error, click.UsageError) else 1)
    except RunPaused as pause:
        _fail(str(pause))
    except LoraRlhfError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        _fail("stopped")
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        _fail(_unexpected(error))


def _fail(text: str) -> None:
    say(f"lorarlhf: {text}")
    sys.exit(1)


def _unexpected(error: Exception) -> str:
    """Keep the traceback in a file for whoever mends it; say one line to the person."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="lorarlhf-error-", suffix=".txt", delete=False) as report:
        traceback.print_exception(error, file=report)
    return (
        f"unexpected {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}; details: {report.name}"
    )


if __name__ == "__main__":
    main()
