"""Who may talk to the app: pages it served itself, under a name it was started with.

A page of another site can make a browser send requests to 127.0.0.1, and by giving its own name that address
(DNS rebinding) it can even read the answers. Both are told by the headers Host and Origin, which no page can forge.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL = ("127.0.0.1", "localhost", "[::1]")

POLICY = "; ".join(
    (
        # Gradio's page has inline scripts and styles and compiles templates; nothing may come from, or go, elsewhere.
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)


class Guard:
    """ASGI middleware that refuses foreign hosts and origins, and tells browsers to fetch nothing from elsewhere."""

    def __init__(self, app: ASGIApp, hosts: Iterable[str] = LOCAL) -> None:
        self.app, self.hosts = app, frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with 403."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        if problem := self._problem(headers):
            return await PlainTextResponse(problem, status_code=403)(scope, receive, send)

        async def send_with_policy(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"same-origin"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        return await self.app(scope, receive, send_with_policy)

    def _problem(self, headers: Headers) -> str:
        host = headers.get("host", "")
        if name_of(host) not in self.hosts:
            return f"The app does not answer to the name {host!r}; open it under the address it printed."
        origin = headers.get("origin")
        # "null" is what sandboxed frames and local files send: foreign as well.
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return f"A page of {origin!r} may not talk to this app."
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return "A page of another site may not talk to this app."
        return ""


def name_of(host: str) -> str:
    """Take the port off a Host header."""
    host = host.lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]
