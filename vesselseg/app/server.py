"""The page and its requests, as a Starlette application."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from importlib import resources

from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import OptionError, VesselsegError
from ..result import Segmentation
from .memory import FILES, OfferedModels, RecentResults, encode

HEADERS = {
    # The browser itself rejects scripts, styles, fonts and pictures that are not served here.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",  # the browser keeps no copy on disk either
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Sent with every response."""

_STATIC = {
    "/": ("app/page/index.html", "text/html"),
    "/page.css": ("app/page/page.css", "text/css"),
    "/page.js": ("app/page/page.js", "text/javascript"),
    "/example.jpg": ("embedded/fundus.jpg", "image/jpeg"),
}
_QUEUE = 8  # photographs that wait for the network or are being uploaded
_STALL = 30.0  # seconds without a byte after which an upload is given up


def make_app(
    models: OfferedModels, *, max_upload: int, hosts: Collection[str] | None = None
) -> Starlette:
    """The application, to be run by an ASGI server.

    Parameters
    ----------
    models : OfferedModels
    max_upload : int
        Largest file that is accepted, in bytes.
    hosts : collection of str, or None
        Names, without port, by which a browser may ask for the page; None for any.

    Returns
    -------
    Starlette
        ``POST /segment?model=NAME`` takes an image file as its body and answers with JSON, which
        has the ``token`` of the result; ``GET /results/TOKEN/FILE?threshold=T&opacity=O`` gives
        one of `FILES`; ``DELETE /results/TOKEN`` forgets it; ``GET /settings`` has models and
        limits. Errors are answered as text.

    Notes
    -----
    One thread runs the network: two would only compete for the same processors. Other photographs
    wait in a short queue, and the page itself never waits for them.
    """
    results = RecentResults()
    network = ThreadPoolExecutor(1)
    waiting = 0

    def settings(_: Request) -> Response:
        return JSONResponse({"models": models.names(), "max_upload": max_upload})

    async def segment(request: Request) -> Response:
        nonlocal waiting
        if waiting >= _QUEUE:
            raise HTTPException(
                503, "Several photographs are waiting already. Try again in a moment."
            )
        waiting += 1
        try:
            content = await read_body(request, max_upload)
            name = request.query_params.get("model", "")
            start = time.perf_counter()
            future = network.submit(run_model, models, name, content)
            done = asyncio.wrap_future(future)
            while not done.done():
                if await request.is_disconnected() and future.cancel():
                    raise HTTPException(400, "The sender of the photograph has gone.")
                await asyncio.wait([done], timeout=0.5)
            result, warnings = done.result()
        finally:
            waiting -= 1
        height, width = result.mask.shape
        return JSONResponse(
            {
                "token": results.add(result),
                "height": height,
                "width": width,
                "seconds": time.perf_counter() - start,
                "warnings": warnings,
                "provenance": result.provenance,
            }
        )

    def file(request: Request) -> Response:
        result = results.get(request.path_params["token"])
        name = request.path_params["file"]
        if result is None:
            raise HTTPException(
                404, "This result is no longer in memory. Segment the photograph again."
            )
        if name not in FILES:
            raise HTTPException(404, f"There is no {name!r}; there are {', '.join(FILES)}.")
        result = result.at_threshold(read_number(request, "threshold", 0.5))
        content = encode(result, name, read_number(request, "opacity", 0.6))
        media_type = "image/png" if name.endswith(".png") else "application/octet-stream"
        return Response(content, media_type=media_type)

    def forget(request: Request) -> Response:
        results.forget(request.path_params["token"])
        return Response(status_code=204)

    def rejected(_: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 400)

    def unexpected(_: Request, error: Exception) -> Response:
        # Starlette raises the error again after this response, so that the server logs it.
        return PlainTextResponse(
            f"Unexpected error: {type(error).__name__}. The terminal shows more.", 500
        )

    guards = [Middleware(PageGuard)]
    if hosts is not None:
        # The middleware cuts a host at its first colon: "[" is every IPv6 address in brackets,
        # which, unlike a name, no other site can point here.
        guards.append(Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts, "["]))
    return Starlette(
        routes=[
            *(static_route(path, *about) for path, about in _STATIC.items()),
            Route("/settings", settings),
            Route("/segment", segment, methods=["POST"]),
            Route("/results/{token}", forget, methods=["DELETE"]),
            Route("/results/{token}/{file}", file),
        ],
        middleware=guards,
        exception_handlers={
            VesselsegError: rejected,
            FileNotFoundError: rejected,
            Exception: unexpected,
        },
    )


class PageGuard:
    """Sends `HEADERS` with every response, and rejects requests that come from other pages.

    A page anywhere on the web can make a browser send requests to 127.0.0.1. Its address is then
    in ``Origin``. (If it gave its own name that address, TrustedHostMiddleware rejects it.)
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        app = self.app
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            origin, host = headers.get("origin"), headers.get("host", "")
            if origin is not None and origin not in (f"http://{host}", f"https://{host}"):
                text = f"Requests from {origin!r} are rejected: only this page may ask."
                app = PlainTextResponse(text, 403)
        await app(scope, receive, send_with_headers)


class WarningCollector(logging.Handler):
    """Collects the warnings that the library logs about one photograph."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def run_model(models: OfferedModels, name: str, content: bytes) -> tuple[Segmentation, list[str]]:
    """Segment an image file; return the result and the warnings about it."""
    collector = WarningCollector()
    logger = logging.getLogger("vesselseg")
    logger.addHandler(collector)
    try:
        return models.get(name)(content), collector.messages
    finally:
        logger.removeHandler(collector)


def static_route(path: str, name: str, media_type: str) -> Route:
    """A file of the page."""
    content = resources.files("vesselseg").joinpath(name).read_bytes()
    return Route(path, lambda _: Response(content, media_type=media_type))


async def read_body(request: Request, max_upload: int) -> bytes:
    """The body, rejected as soon as it is known to be too long or to have stalled."""
    too_large = HTTPException(
        413, f"The file is larger than {max_upload / 1e6:g} MB, the limit here (--max-upload)."
    )
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and (len(announced) > 18 or int(announced) > max_upload):
        raise too_large
    content = bytearray()
    stream = aiter(request.stream())
    try:
        while True:
            content += await asyncio.wait_for(anext(stream), _STALL)
            if len(content) > max_upload:
                raise too_large
    except StopAsyncIteration:
        return bytes(content)
    except (ClientDisconnect, asyncio.TimeoutError):
        raise HTTPException(400, "The upload broke off.") from None


def read_number(request: Request, name: str, default: float) -> float:
    """A number among the parameters of a request."""
    text = request.query_params.get(name, str(default))
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"{name} is {text!r}; it must be a number from 0 to 1.") from None
