"""Who may talk to the app, and who may not."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from lorarlhf.errors import SettingsError
from lorarlhf.settings import LoadSettings
from lorarlhf.ui.guard import POLICY, Guard
from lorarlhf.ui.launch import free_port, names_of, serve
from lorarlhf.workspace import Workspace


def ask(host: str, **headers: str) -> tuple[int, dict[str, str]]:
    """Send one request through the guard → status and headers of the reply."""
    inner = Starlette(routes=[Route("/", lambda request: PlainTextResponse("secret"), methods=["GET", "POST"])])
    sent: list = []

    async def receive() -> dict:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict) -> None:
        sent.append(message)

    raw = [(b"host", host.encode()), *((k.replace("_", "-").encode(), v.encode()) for k, v in headers.items())]
    scope = {"type": "http", "method": "POST", "path": "/", "raw_path": b"/", "query_string": b"", "headers": raw}
    asyncio.run(Guard(inner, names_of("127.0.0.1"))(scope, receive, send))
    return sent[0]["status"], {k.decode(): v.decode() for k, v in sent[0]["headers"]}


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LOCALHOST", "[::1]:7860"])
def test_its_own_names_pass_and_fetch_nothing_from_elsewhere(host):
    status, headers = ask(host, origin=f"http://{host.lower()}")
    assert (status, headers["content-security-policy"]) == (200, POLICY)
    assert "http" not in POLICY


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7860", "", "[::2]"])
def test_a_foreign_name_is_refused(host):
    assert ask(host)[0] == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:7860"])
def test_a_page_of_another_origin_is_refused(origin):
    assert ask("127.0.0.1:7860", origin=origin)[0] == 403


def test_another_site_may_link_here_but_not_send_here():
    assert ask("127.0.0.1:7860", sec_fetch_site="cross-site", sec_fetch_mode="navigate")[0] == 200
    assert ask("127.0.0.1:7860", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")[0] == 403
    assert ask("127.0.0.1:7860", sec_fetch_site="same-origin", sec_fetch_mode="cors")[0] == 200


def test_an_app_for_the_network_answers_to_the_machines_names_only():
    names = names_of("0.0.0.0")
    assert {"127.0.0.1", "localhost", socket.gethostname()} <= names
    assert "evil.example" not in names


def test_another_host_is_refused_without_a_password(tmp_path: Path):
    with pytest.raises(SettingsError, match="--auth USER:PASSWORD"):
        serve(Workspace(tmp_path / "work"), LoadSettings(), host="0.0.0.0")
    assert not (tmp_path / "work").exists()


def test_a_taken_port_is_named_and_without_one_the_next_free_is_found():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"--port {port} on 127.0.0.1: .*choose another with --port"):
            free_port("127.0.0.1", port)
    assert free_port("127.0.0.1", port) == port
