"""Send an export to the Hub, only when asked: private unless told otherwise, and never half described."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lorarlhf.errors import ExportError


def check_repository(name: str) -> None:
    """Refuse a name that is not USER/NAME before anything is made."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", name) or ".." in name or "--" in name:
        raise ExportError(f"--push {name}: name a repository of the Hub as USER/NAME")


def check_login() -> None:
    """Refuse to begin a long export that could not be sent for want of a token."""
    from huggingface_hub import get_token

    if get_token() is None:
        raise ExportError("nobody is logged in to the Hub here; run `hf auth login`, or look first with --dry-run")


def plan_push(folder: Path, repository: str, *, public: bool = False) -> dict[str, Any]:
    """List what would be sent: every file with its bytes; sends nothing."""
    files: list[dict[str, Any]] = [
        {"name": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    total = sum(file["bytes"] for file in files)
    return {"repository": repository, "private": not public, "files": files, "bytes": total, "sent": False}


def push(folder: Path, repository: str, *, public: bool = False) -> dict[str, Any]:
    """Send a folder to the Hub, into a new repository or one that is as private as asked → what was sent.

    Raises `ExportError` in one line where that fails; the folder stays as it is.
    """
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api, what = HfApi(), plan_push(folder, repository, public=public)
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        if not public and not api.model_info(repository).private:
            raise ExportError(f"{repository} is there already and public, nothing was sent; pass --public if it may be")
        sent = api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message=f"Upload {folder.name} with lorarlhf"
        )
    # huggingface_hub's own errors are all of these.
    except (OSError, ValueError, RuntimeError, HfHubHTTPError, httpx.HTTPError) as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(f"{_problem(repository, error)}; the export itself is done, in {folder}") from None
    return {**what, "sent": True, "url": str(getattr(sent, "commit_url", ""))}


def _problem(repository: str, error: Exception) -> str:
    """Word what huggingface_hub says, by its class and status."""
    kinds = {c.__name__ for c in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "LocalTokenNotFoundError" in kinds or status == 401:
        return f"{repository} was not pushed: nobody is logged in, or the token is too old; run `hf auth login`"
    if status in (403, 404):
        return f"{repository} was not pushed: your token may not write there; check USER and the token's rights"
    if "HFValidationError" in kinds or status in (400, 422):
        return f"{repository} was not pushed: the Hub takes no such name"
    if status is not None:
        return f"{repository} was not pushed: the Hub answered {status}; try again later"
    if kinds & {"OfflineModeIsEnabled", "ConnectError", "TimeoutException", "NetworkError", "ConnectionError"}:
        return f"{repository} was not pushed: the Hub is out of reach or HF_HUB_OFFLINE is set"
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return f"{repository} was not pushed ({said})"
