"""What stands between the page and everybody else."""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # The browser itself refuses whatever is not served here: scripts, styles, fonts, pictures.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",  # the browser keeps no copy on disk either
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Sent with every answer."""


class Guard:
    """Refuse what other web sites ask in the user's browser; send `HEADERS` with every answer.

    A page anywhere on the web can make a browser send requests to 127.0.0.1. Its address is then
    in ``Origin``; or, where it gave its own name that address (DNS rebinding), in ``Host``.

    Parameters
    ----------
    app : ASGI application
    hosts : collection of str, or None
        Names by which this server may be asked, without port; None for any.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        answer = self._app
        if scope["type"] == "http" and (refusal := self._refusal(Headers(scope=scope))):
            answer = PlainTextResponse(refusal, 403)
        await answer(scope, receive, guarded)

    def _refusal(self, headers: Headers) -> str:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._hosts is not None and urlsplit(f"//{host}").hostname not in self._hosts:
            return f"This page is not served as {host!r}, but as {', '.join(self._hosts)}."
        if origin is not None and urlsplit(origin).netloc != host:
            return f"Requests from {origin!r} are refused: only this page may ask."
        return ""
