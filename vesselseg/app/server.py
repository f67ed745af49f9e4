"""The page and its requests, as a Starlette application."""

from __future__ import annotations

import asyncio
import io
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from logging import WARNING, getLogger
from logging.handlers import BufferingHandler
from typing import cast

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..api import find_cached
from ..errors import OptionError, UnknownModelError, VesselsegError
from ..formats import endings
from ..registry import list_models
from ..result import KINDS, Kind, Segmentation
from ..segmenter import Segmenter

_HEADERS = {
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
_FILES = ("photograph.png", "probability.f32", *(f"{kind}.png" for kind in KINDS))
_KEPT = 4  # results in memory
_QUEUE = 8  # photographs that wait for the network or are being uploaded
_STALL = 30.0  # seconds without a byte after which an upload is given up


class OfferedModels:
    """The models that the page offers: those on this machine, loaded when first chosen.

    `first`, which the page calls `name`, stays in memory, and so does the one chosen last.
    """

    def __init__(self, first: Segmenter, name: str, load: Callable[..., Segmenter]) -> None:
        self.name = name
        self.loaded = {name: first}
        self.load = load

    def names(self) -> list[str]:
        """The first model, the embedded one, and the published ones in the cache.

        They are looked up each time, so that a model downloaded in the meantime is offered.
        """
        available = [spec.name for spec in list_models() if find_cached(spec)]
        return list(dict.fromkeys([self.name, *available]))

    def get(self, name: str) -> Segmenter:
        """The model of that name, "" for the first; UnknownModelError if it is not offered."""
        name = name or self.name
        if name not in self.loaded:
            if name not in self.names():
                raise UnknownModelError(
                    f"The model {name!r} is not on this machine. Available are: "
                    f"{', '.join(self.names())}. `vesselseg models` lists all, and `vesselseg "
                    f"download NAME` downloads one."
                )
            self.loaded = {self.name: self.loaded[self.name]}  # first release the last one
            self.loaded[name] = self.load(model=name)
        return self.loaded[name]


def make_app(
    models: OfferedModels, *, max_upload: int, hosts: Collection[str] | None = None
) -> ASGIApp:
    """The application, to be run by an ASGI server.

    ``POST /segment?model=NAME`` takes an image file of at most `max_upload` bytes as its body, and
    ``&bits=N`` if its 16-bit values use fewer. It answers with JSON, which has the ``token`` of the
    result. ``GET /results/TOKEN/FILE`` gives one of `_FILES`, for ``threshold`` and ``opacity`` in
    the query; ``DELETE /results/TOKEN`` forgets it. ``GET /settings`` has models and limits. Errors
    are answered as text.

    `hosts` are the names, without port, by which a browser may ask for the page; None for any.

    One thread runs the network: two would only compete for the same processors. Other photographs
    wait in a short queue, and the page itself never waits for them.
    """
    results: OrderedDict[str, Segmentation] = OrderedDict()  # used by the event loop alone
    network = ThreadPoolExecutor(1)
    queue = asyncio.Semaphore(_QUEUE)

    def settings(_: Request) -> Response:
        return JSONResponse({"models": models.names(), "max_upload": max_upload})

    async def segment(request: Request) -> Response:
        if queue.locked():
            raise HTTPException(503, "Several photographs are waiting. Try again in a moment.")
        async with queue:
            content = await _read_body(request, max_upload)
            name, bits = request.query_params.get("model", ""), _read_bits(request)
            start = time.perf_counter()
            future = network.submit(_run_model, models, name, content, bits)
            done = asyncio.wrap_future(future)
            while not done.done():
                if await request.is_disconnected() and future.cancel():
                    raise HTTPException(400, "The sender of the photograph has gone.")
                await asyncio.wait([done], timeout=0.5)
        result, warnings = done.result()
        token = secrets.token_urlsafe(16)
        results[token] = result
        if len(results) > _KEPT:
            results.popitem(last=False)
        height, width = result.mask.shape
        return JSONResponse(
            {
                "token": token,
                "height": height,
                "width": width,
                "seconds": time.perf_counter() - start,
                "warnings": warnings,
                "provenance": result.provenance,
            }
        )

    async def file(request: Request) -> Response:
        token, name = request.path_params["token"], request.path_params["file"]
        if token not in results:
            raise HTTPException(
                404, "This result is no longer in memory. Segment the photograph again."
            )
        if name not in _FILES:
            raise HTTPException(404, f"There is no {name!r}; there are {', '.join(_FILES)}.")
        results.move_to_end(token)
        threshold, opacity = _read_number(request, "threshold"), _read_number(request, "opacity")
        content = await run_in_threadpool(_encode, results[token], name, threshold, opacity)
        media_type = "image/png" if name.endswith(".png") else "application/octet-stream"
        return Response(content, media_type=media_type)

    async def forget(request: Request) -> Response:
        results.pop(request.path_params["token"], None)
        return Response(status_code=204)

    def rejected(_: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 400)

    def unexpected(_: Request, error: Exception) -> Response:
        # Starlette raises the error again after this response, so that the server logs it.
        text = f"Unexpected error: {type(error).__name__}. The terminal shows more."
        return PlainTextResponse(text, 500)

    routes = [
        Route("/settings", settings),
        Route("/segment", segment, methods=["POST"]),
        Route("/results/{token}", forget, methods=["DELETE"]),
        Route("/results/{token}/{file}", file),
    ]
    for path, (name, media_type) in _STATIC.items():
        content = resources.files("vesselseg").joinpath(name).read_bytes()
        if path == "/":  # what the page's file chooser offers
            content = content.replace(b"ENDINGS", ",".join(endings()).encode())
        routes.append(Route(path, Response(content, media_type=media_type), methods=["GET"]))
    # Older versions of the middleware cut a host at its first colon: "[" is every IPv6 address in
    # brackets, which, unlike a name, no other site can point here.
    allowed = ["*"] if hosts is None else [*hosts, *(f"[{host}]" for host in hosts), "["]
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=allowed)]
    handlers = {VesselsegError: rejected, FileNotFoundError: rejected, Exception: unexpected}
    return _guard(Starlette(routes=routes, middleware=middleware, exception_handlers=handlers))


def _guard(app: ASGIApp) -> ASGIApp:
    """Send `HEADERS` with every response, and reject requests that come from other pages.

    A page anywhere on the web can make a browser send requests to 127.0.0.1. Its address is then
    in ``Origin``. (If it gave its own name that address, TrustedHostMiddleware rejects it.)
    """

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        origin, host = headers.get("origin"), headers.get("host", "")
        if origin in (None, f"http://{host}", f"https://{host}"):
            await app(scope, receive, send_with_headers)
        else:
            text = f"Requests from {origin!r} are rejected: only this page may ask."
            await PlainTextResponse(text, 403)(scope, receive, send_with_headers)

    return guarded


def _run_model(
    models: OfferedModels, name: str, content: bytes, bits: int | None
) -> tuple[Segmentation, list[str]]:
    """Segment an image file; return the result and the warnings that are logged about it."""
    collector = BufferingHandler(sys.maxsize)
    collector.setLevel(WARNING)
    logger = getLogger("vesselseg")
    logger.addHandler(collector)
    try:
        result = models.get(name)(content, bits=bits)
    finally:
        logger.removeHandler(collector)
    return result, [record.getMessage() for record in collector.buffer]


def _encode(result: Segmentation, file: str, threshold: float, opacity: float) -> bytes:
    """One of `_FILES`: a picture as :meth:`Segmentation.save` writes it, with this opacity.

    ``photograph.png`` is the photograph as it was decoded and turned upright, and
    ``probability.f32`` is float32 (H, W), little-endian, row by row.
    """
    result = result.at_threshold(threshold)
    if file == "probability.f32":
        return result.probability.astype("<f4").tobytes()
    stream = io.BytesIO()
    if file == "photograph.png":
        result.overlay(opacity=0).save(stream, format="PNG", compress_level=1)
    else:
        kind = cast("Kind", file.removesuffix(".png"))
        result.save(stream, kind, format="png", opacity=opacity)
    return stream.getvalue()


async def _read_body(request: Request, max_upload: int) -> bytes:
    """The body, rejected as soon as it is known to be too long or to have stalled."""
    too_large = HTTPException(
        413, f"The file is larger than {max_upload / 1e6:g} MB, the limit here (--max-upload)."
    )
    # h11 has rejected what is no number of at most 20 digits.
    if int(request.headers.get("content-length", 0)) > max_upload:
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


def _read_bits(request: Request) -> int | None:
    """The significant bits of 16-bit values, in the query of a request, or None."""
    text = request.query_params.get("bits", "")
    try:
        return int(text) if text else None
    except ValueError:
        raise OptionError(f"bits is {text!r}; it must be an integer from 8 to 16.") from None


def _read_number(request: Request, name: str) -> float:
    """The threshold or the opacity in the query of a request."""
    text = request.query_params.get(name, {"threshold": 0.5, "opacity": 0.6}[name])
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"{name} is {text!r}; it must be a number from 0 to 1.") from None
