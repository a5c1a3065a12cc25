"""The folder that holds everything one person made: votes, runs, adapters, exports. Knows nothing of torch."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lorarlhf.errors import StoreError
from lorarlhf.store import Store


def default_path() -> Path:
    """Name the workspace used when nobody names one: `$LORARLHF_HOME`, else `~/.lorarlhf`."""
    return Path(os.environ.get("LORARLHF_HOME") or "~/.lorarlhf").expanduser()


class Workspace:
    """Where things lie. Making one touches no disk; `open` creates the folders."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path).expanduser().absolute() if path else default_path().absolute()

    def __repr__(self) -> str:
        return f"Workspace({str(self.path)!r})"

    @property
    def db(self) -> Path:
        """The SQLite file with votes and runs."""
        return self.path / "workspace.db"

    @property
    def adapters_dir(self) -> Path:
        """One folder per adapter, by name."""
        return self.path / "adapters"

    @property
    def runs_dir(self) -> Path:
        """One folder of checkpoints per run, by run id."""
        return self.path / "runs"

    @property
    def exports_dir(self) -> Path:
        """Where exports go unless the person names another place."""
        return self.path / "exports"

    def open(self) -> Workspace:
        """Create what is missing and return self; raise `StoreError` where no workspace can be."""
        try:
            for folder in (self.path, self.adapters_dir, self.runs_dir, self.exports_dir):
                folder.mkdir(parents=True, exist_ok=True)
            # Access bits lie (root, read-only mounts, network shares); only a real file tells.
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except (OSError, ValueError) as error:
            raise StoreError(_why(self.path, error)) from error
        return self

    def store(self) -> Store:
        """Open the workspace's database; each process, and whoever wants to read in parallel, opens its own."""
        return Store(self.open().db)


def _why(path: Path, error: OSError | ValueError) -> str:
    elsewhere = "choose another folder with --workspace"
    if isinstance(error, ValueError):
        return f"workspace {str(path)!r}: not a possible folder name; {elsewhere}"
    blocking = Path(error.filename) if isinstance(error.filename, str) else path
    if isinstance(error, (FileExistsError, NotADirectoryError)):
        taken = next((p for p in (blocking, *blocking.parents) if p.exists() and not p.is_dir()), blocking)
        return f"workspace {path}: {taken} is a file, not a folder; {elsewhere}"
    if isinstance(error, PermissionError):
        return f"workspace {path}: you may not write there; {elsewhere}"
    return f"workspace {path}: cannot write there ({error.strerror or error}); {elsewhere}"
