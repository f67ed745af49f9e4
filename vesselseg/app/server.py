"""The page and its requests, as a Starlette application."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import resources
from importlib.util import find_spec
from pathlib import PurePath
from typing import Any, cast
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..api import find_cached
from ..batch.jobs import Job
from ..batch.work import SEGMENTS, Work, draw_measures, to_six_digits
from ..errors import OptionError, UnknownModelError, VesselsegError, how_to_install
from ..formats import endings, is_dicom
from ..measures import ColorBy, Measures, check_options
from ..registry import EMBEDDED, REGISTRY
from ..result import KINDS, Kind, Segmentation, Style
from ..segmenter import Segmenter
from ..spec import ModelSpec

_HEADERS = {
    # The browser itself rejects scripts, styles, fonts and pictures that are not served here.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",  # the browser keeps no copy on disk either
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Sent with every response."""

_STATIC = {
    "page.css": "app/page/page.css",
    **{f"{name}.js": f"app/page/{name}.js" for name in ("page", "picture", "requests", "zip")},
    "example.jpg": "embedded/fundus.jpg",
}
_MEDIA_TYPES = {
    ".css": "text/css",
    ".dcm": "application/dicom",
    ".f32": "application/octet-stream",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
}
_TABLES = ("row.json", "measures.json")
_FILES = (
    "photograph.png", "probability.f32", *(f"{kind}.png" for kind in KINDS), "seg.dcm", *_TABLES,
    "measures.png", "table.json",
)  # fmt: skip
_HEADS = {"fcn": "FCN", "pspnet": "PSPNet", "deeplabv3": "DeepLabV3"}
_MEMORY = 10**9  # bytes of results that are kept
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
        available = [name for name, spec in REGISTRY.items() if find_cached(spec)]
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


@dataclass(frozen=True)
class _Kept:
    """A result in memory, and what it needs for its files."""

    result: Segmentation
    seconds: float
    source: bytes
    """The photograph's file, if it is a DICOM file, which a Segmentation object refers to."""
    measured: dict[tuple[Any, ...], Measures] = field(default_factory=dict)
    """What was measured last, by threshold and size of a pixel."""

    @property
    def size(self) -> int:
        """Bytes, about: RGB, probability, mask and field of view of each pixel, and other masks."""
        return (9 + len(self.measured)) * self.result.mask.size + len(self.source)

    def measure(self, threshold: float, mm_per_pixel: float | None) -> Measures:
        """The measures, from memory if they are the last ones."""
        key = (threshold, mm_per_pixel)
        measures = self.measured.get(key)
        if measures is None:
            measures = self.result.at_threshold(threshold).measure(mm_per_pixel=mm_per_pixel)
            self.measured.clear()
            self.measured[key] = measures
        return measures


class _Results:
    """The results used last, up to so many bytes, and at least one; used by the event loop."""

    def __init__(self, memory: int) -> None:
        self.memory = memory
        self.kept: OrderedDict[str, _Kept] = OrderedDict()

    def add(self, kept: _Kept) -> str:
        """Keep a result; return the token that it is asked for by."""
        token = secrets.token_urlsafe(16)
        self.kept[token] = kept
        while len(self.kept) > 1 and sum(each.size for each in self.kept.values()) > self.memory:
            self.kept.popitem(last=False)
        return token

    def get(self, token: str) -> _Kept:
        """The result of a token."""
        if token not in self.kept:
            raise HTTPException(
                404, "This result is no longer in memory. Segment the photograph again."
            )
        self.kept.move_to_end(token)
        return self.kept[token]


class _CancelledError(Exception):
    """Nobody waits for the result any more."""


def make_app(
    models: OfferedModels,
    *,
    max_upload: int,
    hosts: Collection[str] | None = None,
    proxies: Collection[str] = (),
    root_path: str = "",
    memory: int = _MEMORY,
) -> ASGIApp:
    """The application, to be run by an ASGI server.

    ``POST /segment?model=NAME`` takes an image file of at most `max_upload` bytes as its body, and
    ``&bits=N`` if its 16-bit values use fewer. It answers with JSON, which has the ``token`` of the
    result; if the sender goes away, the network stops. ``GET /results/TOKEN/FILE`` gives one of
    `_FILES`, for ``threshold``, ``opacity``, ``style``, ``color``, ``color_by`` and
    ``mm_per_pixel`` in the query. ``POST /forget`` takes tokens, one a line, and releases their
    results. ``GET /settings`` has models and limits. Errors are answered as text.

    `hosts` are the names, without port, by which a browser may ask for the page; None for any.
    `proxies` are those under which a proxy serves it, and `root_path` is its path there, such as
    "/vessels"; requests may come with or without it. Results in memory are limited to `memory`
    bytes.

    One thread runs the network: two would only compete for the same processors. Other photographs
    wait in a short queue, and the page itself never waits for them.
    """
    results = _Results(memory)
    network = ThreadPoolExecutor(1)
    queue = asyncio.Semaphore(_QUEUE)

    def settings(_: Request) -> Response:
        available = models.names()
        names = [*available, *(name for name in REGISTRY if name not in available)]
        offered = [
            {"name": name, "label": _label(name), "downloaded": name in available} for name in names
        ]
        no_measures = "" if find_spec("skan") else how_to_install("measure")
        return JSONResponse(
            {"models": offered, "max_upload": max_upload, "no_measures": no_measures}
        )

    async def segment(request: Request) -> Response:
        if queue.locked():
            raise HTTPException(
                503, "Several photographs are waiting. Try again in a moment.", {"Retry-After": "1"}
            )
        async with queue:
            content = await _read_body(request, max_upload)
            query = request.query_params
            name = query.get("model", "")
            bits = _read_number(query, "bits", None, int, "an integer from 8 to 16")
            kept = await _unless_gone(
                request, network, lambda stop: _run_model(models, name, content, bits, stop)
            )
        height, width = kept.result.shape
        return JSONResponse(
            {
                "token": results.add(kept),
                "model": name or models.name,
                "label": _label(name or models.name),
                "height": height,
                "width": width,
                "seconds": kept.seconds,
                "is_dicom": bool(kept.source),
                "provenance": kept.result.provenance,
            }
        )

    async def file(request: Request) -> Response:
        kept, name = results.get(request.path_params["token"]), request.path_params["file"]
        if name not in _FILES:
            raise HTTPException(400, f"There is no {name!r}; there are {', '.join(_FILES)}.")
        content = await run_in_threadpool(_encode, kept, name, request.query_params)
        return Response(content, media_type=_MEDIA_TYPES[PurePath(name).suffix])

    async def forget(request: Request) -> Response:
        for token in (await _read_body(request, max_upload)).decode("ascii", "replace").split():
            results.kept.pop(token, None)
        return Response(status_code=204)

    def rejected(_: Request, error: Exception) -> Response:
        given = "the [0-9]+ bytes given|what was given"  # to the library, which got no file
        return PlainTextResponse(re.sub(given, "The file", str(error), flags=re.IGNORECASE), 400)

    def unexpected(_: Request, error: Exception) -> Response:
        # Starlette raises the error again after this response, so that the server logs it.
        text = f"Unexpected error: {type(error).__name__}. The terminal shows more."
        return PlainTextResponse(text, 500)

    page = _read_static("app/page/index.html").decode()
    page = page.replace("ENDINGS", ",".join(endings())).replace("ROOT", root_path)
    index = Response(page, media_type="text/html")
    routes: list[BaseRoute] = [
        Route("/", index),
        Route("/settings", settings),
        Route("/segment", segment, methods=["POST"]),
        Route("/forget", forget, methods=["POST"]),
        Route("/results/{token}/{file}", file),
    ]
    for name, path in _STATIC.items():
        content = Response(_read_static(path), media_type=_MEDIA_TYPES[PurePath(name).suffix])
        routes.append(Route(f"/{name}", content, methods=["GET"]))
    if root_path:  # some proxies take it off, and others leave it
        routes += [Route(root_path, index), Mount(root_path, routes=list(routes))]
    handlers = {VesselsegError: rejected, FileNotFoundError: rejected, Exception: unexpected}
    return _guard(Starlette(routes=routes, exception_handlers=handlers), hosts, proxies)


def _read_static(path: str) -> bytes:
    return resources.files("vesselseg").joinpath(path).read_bytes()


def _label(name: str) -> str:
    """What the page calls a model; names that are not in the registry stay as they are."""
    if name == EMBEDDED.name:
        return "Any camera (built in)"
    if name not in REGISTRY:
        return name
    spec: ModelSpec = REGISTRY[name]
    is_plain = (spec.head, spec.loss) == ("fcn", "ce")
    loss = "" if spec.loss == "ce" else f", {spec.loss}"
    return f"Like {spec.dataset.upper()}" + ("" if is_plain else f" ({_HEADS[spec.head]}{loss})")


def _guard(app: ASGIApp, hosts: Collection[str] | None, proxies: Collection[str]) -> ASGIApp:
    """Send `HEADERS` with every response, and reject requests that come from other pages.

    A page anywhere on the web can make a browser send requests to 127.0.0.1. Its address is then
    in ``Origin``; or, if it gave its own name that address, its name is in ``Host``. (Starlette's
    TrustedHostMiddleware would reject such a name too, without saying what to do.)
    """

    def refusal(headers: Headers) -> tuple[str, int] | None:
        """Why a request is rejected, and the status; None if it is not."""
        host, origin = headers.get("host", ""), headers.get("origin")
        name = _host_name(f"//{host}")
        if hosts is not None and name not in {*hosts, *proxies}:
            return f"This page does not answer to the name {name!r}. {_advise(name)}", 400
        if origin in (None, f"http://{host}", f"https://{host}"):
            return None
        name = _host_name(str(origin))
        if name in proxies:
            return None
        return (
            f"Requests from {origin!r} are rejected: only this page may ask. {_advise(name)}",
            403,
        )

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        refused = refusal(Headers(scope=scope))
        answer = app if refused is None else PlainTextResponse(*refused)
        await answer(scope, receive, send_with_headers)

    return guarded


def _host_name(address: str) -> str:
    """The name in an address such as ``//eye.example:8000``, in small letters, or ""."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _advise(name: str) -> str:
    """What to do about a name that is rejected; "" for one that nobody can mean."""
    if not re.fullmatch(r"[\w.:-]+", name, re.ASCII):
        return ""
    return (
        f"If you or a proxy of yours serve it under that name, allow it: vesselseg app "
        f"--allow-host {name}"
    )


async def _unless_gone(
    request: Request, executor: ThreadPoolExecutor, work: Callable[[threading.Event], _Kept]
) -> _Kept:
    """What `work` returns. If the sender goes away, the event that it is given is set."""
    stop = threading.Event()
    future = executor.submit(work, stop)
    done = asyncio.wrap_future(future)
    try:
        while not done.done():
            if await request.is_disconnected():
                stop.set()
                future.cancel()  # if it still waits for its turn
                await asyncio.gather(done, return_exceptions=True)
                raise HTTPException(400, "The sender of the photograph has gone.")
            await asyncio.wait([done], timeout=0.5)
        return done.result()
    finally:
        stop.set()  # the server ends


def _run_model(
    models: OfferedModels, name: str, content: bytes, bits: int | None, stop: threading.Event
) -> _Kept:
    """Segment an image file; `stop` ends it."""

    def check(*_: int) -> None:
        if stop.is_set():
            raise _CancelledError

    check()
    model = models.get(name)
    start = time.perf_counter()
    result = model(content, bits=bits, progress=check)
    seconds = time.perf_counter() - start
    result.provenance["input_version"] = hashlib.sha256(content).hexdigest()
    return _Kept(result, seconds, content if is_dicom(content[:132]) else b"")


def _encode(kept: _Kept, file: str, query: QueryParams) -> bytes:
    """One of `_FILES`: pictures as :meth:`Segmentation.save` writes them, with these settings.

    ``photograph.png`` is the photograph as it was decoded and turned upright, and
    ``probability.f32`` is float32 (H, W), little-endian, row by row. ``row.json`` is the row of a
    manifest, and ``measures.json`` the one with measures; the page fills in the names of files.
    ``measures.png`` is the overlay of the measures, and ``table.json`` what the page shows of them.
    """
    threshold, opacity = _read_number(query, "threshold", 0.5), _read_number(query, "opacity", 0.6)
    style = cast("Style", query.get("style", "tint"))
    mm_per_pixel = _read_number(query, "mm_per_pixel", None)
    result = kept.result.at_threshold(threshold)
    if file == "probability.f32":
        return result.probability.astype("<f4").tobytes()
    if file == "measures.png":
        measures, color_by = kept.measure(threshold, mm_per_pixel), query.get("color_by", "width")
        return draw_measures(measures, result.provenance, cast("ColorBy", color_by))
    if file == "table.json":
        measures = kept.measure(threshold, mm_per_pixel)
        shown = [
            {**column._asdict(), "value": to_six_digits(getattr(measures, column.name))}
            for column in measures.columns
        ]
        return json.dumps(shown).encode()
    if file in _TABLES:
        measuring = check_options(mm_per_pixel=mm_per_pixel) if file == "measures.json" else None
        work = Work(threshold=threshold, style=style, measuring=measuring)
        row = work.describe(Job("", dict.fromkeys(("mask", "overlay"), "")), result, kept.seconds)
        row.pop(SEGMENTS, None)
        return json.dumps(row).encode()
    stream = io.BytesIO()
    if file == "photograph.png":
        result.overlay(opacity=0).save(stream, format="PNG", compress_level=1)
    elif file == "seg.dcm":
        result.save_dicom(stream, kept.source)
    else:
        kind, color = cast("Kind", file.removesuffix(".png")), _read_color(query)
        result.save(stream, kind, format="png", style=style, color=color, opacity=opacity)
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


def _read_number(
    query: QueryParams,
    name: str,
    default: float | None,
    kind: Callable[[str], float] = float,
    allowed: str = "a number",
) -> Any:
    """A number; the default where it is not given."""
    text = query.get(name, "")
    try:
        return kind(text) if text else default
    except ValueError:
        raise OptionError(f"{name} is {text!r}; it must be {allowed}.") from None


def _read_color(query: QueryParams) -> tuple[int, int, int]:
    """R, G and B of a color such as ``00dcff``."""
    text = query.get("color", "00dcff")
    if not re.fullmatch("[0-9a-fA-F]{6}", text):
        raise OptionError(f"color is {text!r}; it must be six hexadecimal digits, RRGGBB.")
    red, green, blue = bytes.fromhex(text)
    return red, green, blue
