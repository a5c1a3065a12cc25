"""Export an adapter: write it, replay held-out conversations from the written files in a fresh process, and only then
give it its name.

Our own numbers come from the engine's base where it has the right one in memory, else from a process that loads it and
ends before the next begins: there are never two more bases in memory than the engine's.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from lorarlhf.base_files import find_files
from lorarlhf.errors import ExportError
from lorarlhf.export import FORMATS
from lorarlhf.export.children import run_child
from lorarlhf.export.origin import Origin, ends_of, kept_16bit, origin_of
from lorarlhf.export.peft_format import as_json, write_peft
from lorarlhf.export.places import bytes_to_read, check_dest, first_with_room, zip_file
from lorarlhf.export.probe import (
    NUMBERS,
    ROWS,
    SAID,
    TOLERANCES,
    Agreement,
    Conversation,
    Setup,
    Tolerance,
    agreement,
)
from lorarlhf.export.readme import Export, write_readme
from lorarlhf.export.readme_python import loading
from lorarlhf.files import whole_folder
from lorarlhf.library import CARD, SavedAdapter
from lorarlhf.settings import LoadSettings

Ours = Callable[[SavedAdapter, Sequence[Conversation], Path], Setup]
"""Writes what an adapter says here, as `probe.measure` does."""

MERGED = Tolerance(0.5, 0.05)
"""Of a merged model against base and adapter apart: each weight is rounded to 16 bits once more."""
REPORT = "report.json"


@dataclass(frozen=True)
class Order:
    """What is to be exported, and how its base is loaded."""

    saved: SavedAdapter
    dest: Path
    """A folder, or a file that ends in .zip."""
    form: str
    load: LoadSettings
    conversations: Sequence[Conversation]
    overwrite: bool = False


class Check(NamedTuple):
    """Two sides, how nearly they agreed, and how nearly they have to; None where that is only told."""

    first: str
    second: str
    agreement: Agreement
    tolerance: Tolerance | None

    @property
    def words(self) -> str:
        """Say the outcome in a sentence."""
        found = self.agreement
        allowed = found.allowed(self.tolerance) if self.tolerance else None
        what = "scores of" if found.order is not None else f"log-probabilities of {found.numbers} tokens in"
        told = f"{what} {found.conversations} held-out conversations differ by {found.most:.2g} at most"
        told += f" and {found.mean:.2g} on average"
        return told + (f" (allowed {allowed.most:.2g} and {allowed.mean:.2g})" if allowed else "")


@dataclass(frozen=True)
class Work:
    """What the steps of an export share."""

    order: Order
    origin: Origin
    skip: list[str]
    place: Path
    """A folder for what is not kept."""
    tell: Callable[[str], None]
    """Is told what happens now, again and again while others work; may raise to break off."""

    @property
    def reward(self) -> bool:
        """Tell whether scores are compared."""
        return self.order.saved.has_head

    @property
    def folder(self) -> Path:
        """Where the base lies."""
        assert self.origin.folder is not None
        return self.origin.folder

    def child(self, program: str, job: dict[str, Any], what: str) -> None:
        """Run a program of this folder in a fresh process."""
        run_child(program, job, what, lambda: self.tell(what))


def export(order: Order, ours: Ours | None = None, tell: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Write and check an export, whole or not at all → what was written and found, for `--json`.

    `ours` measures the adapter where its base is in memory already. Raises `ExportError` when the exported files do not
    say the same as the adapter here, `AdapterError` for a torn adapter or one without such a form, `StoreError` for a
    bad place.
    """
    dest = order.dest.expanduser().absolute()
    zipped = dest.suffix == ".zip"
    check_dest(order.saved, dest, order.overwrite)
    for part in order.saved.card["hashes"]:
        order.saved.content(part)  # a torn adapter is told before anything is loaded
    tell("looking for the base")
    origin = origin_of(order.saved, find_files(order.load).folder)
    _refuse(order, origin)
    with tempfile.TemporaryDirectory(prefix="lorarlhf-export-") as place:
        work = Work(order, origin, kept_16bit(origin), Path(place), tell)
        if order.form == "merged":
            first_with_room(bytes_to_read(origin, 16, "bfloat16"), ["cpu"])  # said now, not in a quarter of an hour
        if zipped:
            with zip_file(dest) as aside:
                result = _make(work, aside, dest.stem, ours)
        else:
            with whole_folder(dest, overwrite=order.overwrite) as aside:
                result = _make(work, aside, dest.name, ours)
    return {"file" if zipped else "folder": str(dest), **result}


def _refuse(order: Order, origin: Origin) -> None:
    """Find what this form cannot hold before anything is loaded."""
    if order.form not in FORMATS:
        raise ExportError(f"no format {order.form}; there are: {', '.join(FORMATS)}")
    if order.form == "gguf":
        from lorarlhf.export.gguf_format import check_supported

        check_supported(order.saved, origin)
    if order.form == "merged" and origin.quantised_already:
        raise ExportError(
            f"{origin.name} is quantised itself, so nothing can be merged in 16 bits; export peft instead"
        )


def _make(work: Work, folder: Path, name: str, ours: Ours | None) -> dict[str, Any]:
    """Fill the folder of an export, check it, and describe it → what is told about it."""
    order = work.order
    (work.place / "ours").mkdir()
    work.tell("asking the adapter about held-out conversations")
    setup = (ours or _ours_apart(work))(order.saved, order.conversations, work.place / "ours")
    offset, checks = WRITERS[order.form](work, folder, setup)
    for check in checks:
        if check.tolerance and not check.agreement.within(check.tolerance):
            raise ExportError(
                f"adapter {order.saved.name}: the {order.form} export is not kept, because it does not say what "
                f"{check.first} says: {check.words}; export it again, and if it stays so, please report it"
            )
    told = _told(work, name, order.form, offset, tuple(checks))
    card = {**order.saved.card, "export": _described(folder, order.form, offset, checks)}
    (folder / CARD).write_bytes(as_json(card))
    (folder / "README.md").write_text(write_readme(told), encoding="utf-8")
    done = next(check for check in checks if check.tolerance)
    return {
        "format": order.form,
        "adapter": order.saved.name,
        "files": sorted(path.name for path in folder.iterdir()),
        "bytes": sum(path.stat().st_size for path in folder.iterdir()),
        "check": done.words,
        "checks": [_check_json(check) for check in checks],
        **({} if offset is None else {"score_offset": offset}),
    }


def _told(work: Work, name: str, form: str, offset: float | None, checks: tuple[Check, ...] = ()) -> Export:
    """Gather what the README tells."""
    saved = work.order.saved
    return Export(saved.card, saved.name, name, work.origin, tuple(work.skip), offset, form, checks)


def _lines(work: Work, form: str, folder: Path, offset: float | None) -> str:
    """Write the README's lines of Python as they run here, before the export has its name."""
    told = _told(work, str(folder), form, offset)
    if work.origin.name == "starter":
        return loading(told)
    return loading(replace(told, origin=replace(work.origin, name=str(work.folder), revision="")))


def _described(folder: Path, form: str, offset: float | None, checks: Sequence[Check]) -> dict[str, Any]:
    """Say for the card what the export is and how it was checked."""
    weights = sorted(path for pattern in ("*.safetensors", "*.gguf") for path in folder.glob(pattern))
    made: dict[str, Any] = {"format": form, "hashes": {path.name: _hash(path) for path in weights}}
    made["checks"] = [_check_json(check) for check in checks]
    return made if offset is None else {**made, "score_offset": offset}


def _check_json(check: Check) -> dict[str, Any]:
    allowed = {"allowed": check.tolerance._asdict()} if check.tolerance else {}
    return {"first": check.first, "second": check.second, **check.agreement.as_json(), **allowed}


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(2**20):
            digest.update(block)
    return digest.hexdigest()


# -- the formats ----------------------------------------------------------------------------------------------

Written = tuple[float | None, list[Check]]
"""The head's bias that found no place, of reward models; and how the files were checked."""


def _peft(work: Work, folder: Path, setup: Setup) -> Written:
    offset = write_peft(work.order.saved, work.origin, folder)
    return offset, [_same_as_ours(work, "peft", folder, setup, offset)]


def _gguf(work: Work, folder: Path, setup: Setup) -> Written:
    from lorarlhf.export.gguf_format import write_gguf
    from lorarlhf.export.readme_gguf import write_modelfile

    write_gguf(work.order.saved, work.origin, folder)
    write_modelfile(work.order.saved, work.origin, folder)
    return None, [_same_as_ours(work, "gguf", folder, setup, None)]


def _merged(work: Work, folder: Path, setup: Setup) -> Written:
    """Merge in a process of its own, and compare three: the adapter here, on a 16-bit base, and merged into it."""
    dtype, apart = _dtype_16bit(work.origin), work.place / "adapter"
    apart.mkdir()
    offset = write_peft(work.order.saved, work.origin, apart)
    common = {
        "base": str(work.folder),
        "reward": work.reward,
        "dtype": dtype,
        "trust": work.order.load.trust_remote_code,
    }
    ends = ends_of(work.origin)
    job = {**common, "adapter": str(apart), "out": str(folder), "offset": offset, "ends": ends}
    work.child("merging", job, "merging the adapter into the base")
    for name, content in work.origin.tokenizer.items():
        (folder / name).write_bytes(content)
    here, bits = _where(work, 16, replace(setup, dtype=dtype)), work.origin.bits
    lines = _lines(work, "merged", folder, offset)
    jobs = [
        replay_job(work, "peft", apart, here, bits=16),
        replay_job(work, "merged", folder, here, bits=16, base=folder, lines=lines),
    ]
    sixteen, merged = _replay(work, jobs)
    ours = work.place / "ours" / NUMBERS
    names = f"{bits}-bit base + adapter", "16-bit base + adapter", "merged"
    if offset is not None:
        sixteen, merged = _shifted(sixteen, offset), _shifted(merged, offset)
    checks = [
        Check(names[1], names[2], _compare(work, sixteen, merged), MERGED),
        Check(names[0], names[1], _compare(work, ours, sixteen), None),
        Check(names[0], names[2], _compare(work, ours, merged), None),
    ]
    (folder / REPORT).write_bytes(as_json({"dtype": dtype, "checks": [_check_json(check) for check in checks]}))
    return offset, checks


WRITERS: dict[str, Callable[[Work, Path, Setup], Written]] = {"peft": _peft, "gguf": _gguf, "merged": _merged}


def _dtype_16bit(origin: Origin) -> str:
    """Keep fp16 where the base has it, which a round trip through bf16 would coarsen."""
    stored = str(origin.config.get("dtype") or origin.config.get("torch_dtype"))
    return "float16" if stored == "float16" else "bfloat16"


# -- checking -------------------------------------------------------------------------------------------------


def _ours_apart(work: Work) -> Ours:
    """Measure the adapter in a process that loads its base and ends."""

    def measure(saved: SavedAdapter, conversations: Sequence[Conversation], place: Path) -> Setup:
        job = {
            "load": work.order.load.model_dump(mode="json"),
            "adapter": str(saved.path),
            "conversations": conversations,
            "place": str(place),
        }
        work.child("measuring", job, "asking the adapter about held-out conversations")
        return Setup(**json.loads((place / "setup.json").read_text()))

    return measure


def _same_as_ours(work: Work, mode: str, folder: Path, setup: Setup, offset: float | None) -> Check:
    """Replay the export on the base as it was trained on, and compare it with the adapter here."""
    bits = work.origin.bits
    lines = _lines(work, mode, folder, offset) if mode == "peft" else ""
    (theirs,) = _replay(work, [replay_job(work, mode, folder, _where(work, bits, setup), bits=bits, lines=lines)])
    if offset is not None:
        theirs = _shifted(theirs, offset)
    found = _compare(work, work.place / "ours" / NUMBERS, theirs)
    return Check("the adapter", "the export", found, TOLERANCES[setup.dtype])


def _where(work: Work, bits: int, setup: Setup) -> Setup:
    """Choose where to replay: beside the engine where it fits, else on the processor."""
    devices = list(dict.fromkeys([setup.device, "cpu"]))
    # On a processor the README's lines compute in fp32, as every processor can.
    dtype = "float32" if bits < 16 and devices == ["cpu"] else setup.dtype
    return replace(setup, device=first_with_room(bytes_to_read(work.origin, bits, dtype), devices))


def replay_job(
    work: Work, mode: str, folder: Path, setup: Setup, *, bits: int, base: Path | None = None, lines: str = ""
) -> dict[str, Any]:
    """Write down how a fresh process is to read exported files."""
    own = bits < 16 and not work.origin.quantised_already
    return {
        "mode": mode,
        "lines": lines,
        "reward": work.reward,
        "base": str(base or work.folder),
        "folder": str(folder),
        "bits": bits if own else 16,
        "skip": [*work.skip, *(["score"] if work.reward else [])],
        **asdict(setup),
        "trust": work.order.load.trust_remote_code,
        "rows": str(work.place / "ours" / ROWS),
        "said": str(work.place / "ours" / SAID),
        "end": work.origin.end[0] if work.origin.end else None,
        "out": str(work.place / f"{mode}-{bits}.safetensors"),
    }


def _replay(work: Work, jobs: list[dict[str, Any]]) -> list[Path]:
    """Read exported files in a fresh process → their numbers."""
    hide = all(job["device"] == "cpu" for job in jobs)  # the README's lines take a card wherever they see one
    work.child("replay", {"jobs": jobs, "hide_gpus": hide}, "reading the export back in a fresh process")
    return [Path(job["out"]) for job in jobs]


def _shifted(numbers: Path, offset: float) -> Path:
    """Add the head's bias to the scores of a head that has none."""
    from safetensors.numpy import load_file, save_file

    save_file({key: value + value.dtype.type(offset) for key, value in load_file(numbers).items()}, numbers)
    return numbers


def _compare(work: Work, first: Path, second: Path) -> Agreement:
    return agreement(first, second, json.loads((work.place / "ours" / ROWS).read_text()))
