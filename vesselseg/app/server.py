"""The page and what it asks for, as a Starlette application."""

from __future__ import annotations

import time
from collections.abc import Collection
from importlib import resources

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ..errors import OptionError, VesselsegError
from .guard import Guard
from .models import Models
from .results import FILES, Results, at_threshold, encode

_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}


def make_app(models: Models, *, max_upload: int, hosts: Collection[str] | None = None) -> Starlette:
    """The application, to be run by an ASGI server.

    Parameters
    ----------
    models : Models
        What the page offers.
    max_upload : int
        Largest file that is taken, in bytes.
    hosts : collection of str, or None
        Names by which the page may be asked for, without port; None for any.

    Returns
    -------
    Starlette
        ``POST /segment?model=NAME`` takes an image file as its body and gives JSON with the
        ``token`` of the result; ``GET /results/TOKEN/FILE?threshold=T&opacity=O`` gives one of
        `FILES`; ``DELETE /results/TOKEN`` forgets it; ``GET /settings`` has models and limits.
        Errors are answered as text.
    """
    results = Results()

    def settings(_: Request) -> Response:
        return JSONResponse({"models": models.names(), "max_upload": max_upload})

    async def segment(request: Request) -> Response:
        content = await _body(request, max_upload)
        begun = time.perf_counter()
        name = request.query_params.get("model", "")
        result = await run_in_threadpool(models.segment, name, content)
        height, width = result.mask.shape
        return JSONResponse(
            {
                "token": results.add(result),
                "height": height,
                "width": width,
                "seconds": time.perf_counter() - begun,
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
        result = at_threshold(result, _number(request, "threshold", 0.5))
        content = encode(result, name, _number(request, "opacity", 0.6))
        png = name.endswith(".png")
        return Response(content, media_type="image/png" if png else "application/octet-stream")

    def forget(request: Request) -> Response:
        results.forget(request.path_params["token"])
        return Response(status_code=204)

    return Starlette(
        routes=[
            *(_static(path, *about) for path, about in _PAGE.items()),
            Route("/settings", settings),
            Route("/segment", segment, methods=["POST"]),
            Route("/results/{token}", forget, methods=["DELETE"]),
            Route("/results/{token}/{file}", file),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={VesselsegError: _told, FileNotFoundError: _told, Exception: _failed},
    )


def _static(path: str, name: str, media_type: str) -> Route:
    content = (resources.files(__package__) / "page" / name).read_bytes()
    return Route(path, lambda _: Response(content, media_type=media_type))


async def _body(request: Request, most: int) -> bytes:
    """The body, refused as soon as it is known to be longer than `most` bytes."""
    too_large = HTTPException(
        413, f"The file is larger than {most / 1e6:g} MB, which is the limit here (--max-upload)."
    )
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > most:
        raise too_large
    content = bytearray()
    try:
        async for part in request.stream():
            content += part
            if len(content) > most:
                raise too_large
    except ClientDisconnect:
        raise HTTPException(400, "The upload was broken off.") from None
    return bytes(content)


def _number(request: Request, name: str, default: float) -> float:
    text = request.query_params.get(name, str(default))
    try:
        return float(text)
    except ValueError:
        raise OptionError(f"{name} is {text!r}; it has to be a number from 0 to 1.") from None


def _told(_: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 400)


def _failed(_: Request, error: Exception) -> Response:
    # Starlette raises it again after this answer, so that the server logs it.
    return PlainTextResponse(
        f"This was not expected: {type(error).__name__}. The terminal has more.", 500
    )
