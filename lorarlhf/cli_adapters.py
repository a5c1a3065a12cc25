"""The commands about adapters: list them, take in those of others, export them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lorarlhf.cli_shared import common, open_workspace
from lorarlhf.export import FORMATS
from lorarlhf.files import size
from lorarlhf.settings import LoadSettings
from lorarlhf.terminal import say, show_json, table

if TYPE_CHECKING:
    from lorarlhf.store import Store


@click.command()
@click.option("--import", "source", metavar="FOLDER_OR_HUB_ID", help="Take in a LoRA adapter that peft saved.")
@click.option("--as", "role", type=click.Choice(["sft", "policy", "reward"]), help="What it is taken in as.")
@click.option("--keep", metavar="RUN@STEP", help="Make a checkpoint of a run an adapter, as `ppo-1@40`.")
@click.option("--name", default="", metavar="NAME", help="Its name here. [default: sft-1, ppo-1, reward-1 …]")
@click.option("--base", default="", metavar="ID_OR_PATH", help="Base it was made on. [default: the workspace's]")
@common
def adapters(
    source: str | None,
    role: str | None,
    keep: str | None,
    name: str,
    base: str,
    workspace: str | None,
    as_json: bool,
) -> None:
    """List the adapters of the workspace, take in one made elsewhere, or keep a checkpoint.

    A run has its last two checkpoints, also when it is done; what blind votes said about one goes with it.

    A reward model is one for sequence classification with a score head. What cannot be held exactly is refused: DoRA,
    trained biases or whole layers, ranks that differ by layer.
    """
    if source is None and (role or base or (name and not keep)):
        raise click.UsageError("--as and --base go with --import, --name with --import or --keep")
    if source and keep:
        raise click.UsageError("--import and --keep do not go together")
    if keep:
        _keep(keep, name, workspace, as_json)
        return
    if source is not None:
        if role is None:
            raise click.UsageError("--import wants to know what the adapter is: --as sft, policy or reward")
        _take_in(source, role, name, base, workspace, as_json)
        return
    from lorarlhf.library import list_saved

    found = [
        {
            "name": a.name,
            "stage": a.stage,
            "base": a.card["base"]["name"],
            "created": a.card.get("created", "")[:19],
            "parents": {role: p["name"] for role, p in a.card.get("parents", {}).items()},
            "metrics": a.card.get("metrics", {}),
        }
        for a in list_saved(open_workspace(workspace).adapters_dir)
    ]
    if as_json:
        show_json(found)
    else:
        click.echo(table(found, ["name", "stage", "base", "created"]) if found else "no adapters yet")


def _keep(checkpoint: str, name: str, workspace: str | None, as_json: bool) -> None:
    from lorarlhf.evaluate.contest import keep

    place = open_workspace(workspace)
    with place.store() as store:
        saved = keep(store, place, checkpoint, name)
    made = {"name": saved.name, "stage": saved.stage, "run": saved.card["run"], "step": saved.card["step"]}
    show_json(made) if as_json else click.echo(f"kept {checkpoint} as adapter {saved.name}")


def _take_in(source: str, role: str, name: str, base: str, workspace: str | None, as_json: bool) -> None:
    from lorarlhf.engine.exports import import_adapter

    place = open_workspace(workspace)
    with place.store() as store:
        load = _load_settings(store)
        load = load.model_copy(update={"base": base, "revision": ""}) if base else load
        result = import_adapter(place, store, load, source, role, name)
    for remark in result["remarks"]:
        say(f"note: {remark}")
    show_json(result) if as_json else click.echo(f"imported {result['name']} ({result['layers']} layers)")


def _load_settings(store: Store) -> LoadSettings:
    return LoadSettings.parse(store.get_meta("load", {}), "load")


@click.command("export")
@click.argument("adapter")
@click.argument("dest")
@click.option(
    "--format",
    "form",
    default="peft",
    type=click.Choice(list(FORMATS)),
    help="What to write: " + "; ".join(f"{name}: {words}" for name, words in FORMATS.items()) + ". [default: peft]",
)
@click.option("--base", default="", metavar="FOLDER", help="Where its base lies, if it is a folder that moved.")
@click.option("--push", "repository", metavar="USER/NAME", help="Send it to the Hub, into a private repository.")
@click.option("--public", is_flag=True, help="Let anybody see what --push sends.")
@click.option("--dry-run", is_flag=True, help="With --push: list files and sizes, and send nothing.")
@click.option("--force", is_flag=True, help="Overwrite DEST.")
@common
def export_(
    adapter: str,
    dest: str,
    form: str,
    base: str,
    repository: str | None,
    public: bool,
    dry_run: bool,
    force: bool,
    workspace: str | None,
    as_json: bool,
) -> None:
    """Write ADAPTER to the folder DEST, or to DEST.zip, for other programs to load.

    It counts as done once a fresh process has read it back and said the same about held-out prompts; else there is no
    DEST.
    """
    if (public or dry_run) and not repository:
        raise click.UsageError("--public and --dry-run go with --push USER/NAME")
    if repository and dest.endswith(".zip"):
        raise click.UsageError("--push sends a folder; name one as DEST instead of a zip file")
    if repository:
        from lorarlhf.export.push import check_login, check_repository

        check_repository(repository)
        if not dry_run:
            check_login()
    from lorarlhf.engine.exports import export_adapter

    place = open_workspace(workspace)
    with place.store() as store:
        load = _load_settings(store)
        result = export_adapter(place, store, load, adapter, Path(dest), form, force=force, base=base, tell=_Told())
    if repository:
        result["push"] = _push(Path(result["folder"]), repository, public, dry_run)
    if as_json:
        show_json(result)
        return
    where = result.get("folder") or result["file"]
    click.echo(f"wrote {where} ({size(result['bytes'])}); its README.md says how to load it")
    click.echo(f"checked: {result['check']}")
    if "push" in result:
        click.echo(_push_text(result["push"]))


class _Told:
    """Says each thing once."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, text: str) -> None:
        if text != self.last:
            say(f"{text} …")
        self.last = text


def _push(folder: Path, repository: str, public: bool, dry_run: bool) -> dict[str, Any]:
    from lorarlhf.export.push import plan_push, push

    return (plan_push if dry_run else push)(folder, repository, public=public)


def _push_text(pushed: dict[str, Any]) -> str:
    seen = "private" if pushed["private"] else "public"
    what = f"{len(pushed['files'])} files, {size(pushed['bytes'])}, to {pushed['repository']} ({seen})"
    if pushed["sent"]:
        return f"sent {what}: {pushed['url']}"
    rows = [{"file": file["name"], "size": size(file["bytes"])} for file in pushed["files"]]
    return f"would send {what}; nothing was sent\n{table(rows, ['file', 'size'])}"
