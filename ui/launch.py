"""Start the app and end it: the lock on the workspace, the engine, the web server, Ctrl-C.

The engine starts before Gradio is imported: both take seconds, and they take them at the same time.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from filelock import FileLock, Timeout

from lorarlhf.errors import SettingsError, StoreError
from lorarlhf.settings import LoadSettings
from lorarlhf.ui.desk import Desk
from lorarlhf.ui.guard import LOCAL, Guard
from lorarlhf.workspace import Workspace

if TYPE_CHECKING:
    import gradio as gr

LOCK, ADDRESS = "app.lock", "app.json"
LARGEST_UPLOAD = 512 * 2**20
FIRST_PORT, LAST_PORT = 7860, 7959

Say = Callable[[str], None]
Auth = tuple[str, str]


def serve(
    workspace: Workspace,
    load: LoadSettings,
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: Auth | None = None,
    browser: bool = True,
    say: Say = print,
) -> None:
    """Open the app on a workspace and serve it until Ctrl-C or a termination signal."""
    if host not in ("127.0.0.1", "localhost") and auth is None:
        raise SettingsError(f"--host {host} lets others reach the app; protect it with --auth USER:PASSWORD")
    port = free_port(host, port)
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
    ended = _end_signals()
    with sole_app(workspace.open(), url):
        desk = Desk(workspace, load).open()
        try:
            say("starting …")
            app = launch(desk, host, port, auth)
            say(f"lorarlhf is at {url}, its workspace in {workspace.path}; Ctrl-C ends it")
            if browser:
                import webbrowser

                webbrowser.open(url)
            ended.wait()
            say("ending; a run at work is saved first …")
            app.close(verbose=False)
        finally:
            desk.close()


def launch(desk: Desk, host: str, port: int, auth: Auth | None) -> gr.Blocks:
    """Build the pages and start the web server; return at once."""
    # Read by Gradio as it is imported; nothing here ever reports to anybody.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    from starlette.middleware import Middleware

    from lorarlhf.ui.app import LOOKS, build

    app = build(desk)
    app.queue(default_concurrency_limit=8, api_open=False)
    app.launch(
        server_name=host,
        server_port=port,
        auth=auth,
        prevent_thread_lock=True,
        inbrowser=False,
        quiet=True,
        share=False,
        footer_links=[],
        pwa=True,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=LARGEST_UPLOAD,
        # The only folder whose files a page can ask for; uploads and Gradio's own files lie elsewhere.
        allowed_paths=[str(desk.workspace.exports_dir)],
        app_kwargs={"middleware": [Middleware(Guard, hosts=names_of(host))], "docs_url": None, "redoc_url": None},
        **LOOKS,
    )
    return app


def names_of(host: str) -> set[str]:
    """List the names under which an app that listens on `host` may be asked."""
    names = {*LOCAL, host}
    if host == "0.0.0.0":
        name = socket.gethostname()
        names |= {name, f"{name}.local", socket.getfqdn()}
        names |= {a.address for found in psutil.net_if_addrs().values() for a in found if a.family == socket.AF_INET}
    return names


def free_port(host: str, port: int | None) -> int:
    """Return the port asked for, or the first free one; raise `SettingsError` where it is taken."""
    for candidate in [port] if port else range(FIRST_PORT, LAST_PORT + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return candidate
            except OSError as error:
                problem = error.strerror
    tried = f"--port {port}" if port else f"ports {FIRST_PORT} to {LAST_PORT}"
    raise SettingsError(f"{tried} on {host}: {problem}; choose another with --port or --host")


@contextmanager
def sole_app(workspace: Workspace, url: str) -> Iterator[None]:
    """Keep a second app off the workspace; raise `StoreError` that says where the first one is."""
    lock, address = FileLock(workspace.path / LOCK), workspace.path / ADDRESS
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise StoreError(f"{workspace.path} is open in another app{_where(address)}; use that one") from None
    try:
        address.write_text(json.dumps({"url": url, "pid": os.getpid()}))
        yield
    finally:
        address.unlink(missing_ok=True)
        lock.release()


def _where(address: Path) -> str:
    try:
        known = json.loads(address.read_text())
        return f" at {known['url']} (pid {known['pid']})"
    except (OSError, ValueError, KeyError):
        return ""


def _end_signals() -> threading.Event:
    """Turn Ctrl-C and polite termination into an event; a second Ctrl-C ends at once."""
    ended = threading.Event()

    def end(number: int, _: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        ended.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    return ended
