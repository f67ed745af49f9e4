"""``vesselseg app``: a web page on this machine."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError, OptionError
from . import arguments

if TYPE_CHECKING:
    from ..app.models import Models

_DESCRIPTION = """\
Serve a web page on this machine: drop a photograph, see its vessels, move threshold and opacity,
download mask and overlay. It ends with Ctrl-C.

Photographs and results stay in the memory of this process, the last four of them, until the page
is closed or goes on to the next; nothing is written to disk and nothing is sent to or loaded from
another host. The page offers the model given here, the one that is part of vesselseg, and those
that `vesselseg download` has put into the cache."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def add_parsers(commands: Any) -> None:
    """Add the parser of ``app``."""
    parser = commands.add_parser(
        "app",
        help="serve a web page on this machine to try photographs",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("page").add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at; one that is "
        "not 127.0.0.1 lets other machines in (default: %(default)s)")  # fmt: skip
    add("--port", type=_port, default=8000, metavar="N",
        help="port to listen at, 0 for any free one (default: %(default)s)")  # fmt: skip
    add("--max-upload", type=arguments.positive, default=50, metavar="MB",
        help="largest file that is taken, in megabytes (default: %(default)s)")  # fmt: skip
    add("--max-pixels", type=arguments.positive, default=50_000_000, metavar="N",
        help="largest image that is decoded (default: %(default)s)")  # fmt: skip
    arguments.add_model_options(parser)
    parser.set_defaults(run=_app)


def _app(options: argparse.Namespace) -> int:
    try:
        import uvicorn

        from ..app.server import make_app
    except ImportError as error:
        raise MissingExtraError(
            f"The page needs {error.name or 'a package'}, which is not installed. Install it "
            f"with: pip install 'vesselseg[app]'"
        ) from error
    with _listen(options.host, options.port) as listening:
        models = _models(options)
        app = make_app(models, max_upload=options.max_upload * 10**6, hosts=_names(options.host))
        # One small server, asyncio and h11 wherever it runs; what is asked for is not logged.
        config = uvicorn.Config(
            app, loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None,
            log_level="warning", access_log=False, server_header=False,
        )  # fmt: skip
        port = listening.getsockname()[1]
        if not _is_loopback(options.host):
            print(
                f"vesselseg: whoever reaches port {port} of this machine can use the page; there "
                f"is no password and nothing is encrypted.",
                file=sys.stderr,
            )
        print(f"vesselseg: {_url(options.host, port)} (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # how it is meant to end
            uvicorn.Server(config).run(sockets=[listening])
    return 0


def _models(options: argparse.Namespace) -> Models:
    """The first model is loaded at once: what is wrong with it is told before the page opens."""
    from ..api import load_model
    from ..app.models import Models
    from ..segmenter import Segmenter

    def load(model: str | None, weights: str | None = None) -> Segmenter:
        return load_model(
            model,
            weights=weights,
            device=options.device,
            precision=options.precision,
            backend=options.backend,
            calibration=options.calibration,
            max_pixels=options.max_pixels,
        )

    first = load(options.model, options.weights)
    name = first.spec.name
    if file := options.weights or (options.model if options.model != name else None):
        name += f" ({Path(file).name})"
    return Models(first, name, load)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OptionError(
            f"Port {port} of {host!r} cannot be listened at: {error.strerror or error}. Give "
            f"another, --port N, or --port 0 for any free one; --host takes an address of this "
            f"machine."
        ) from error


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _names(host: str) -> tuple[str, ...] | None:
    """What a browser may call this server; from other machines, by whatever name they know."""
    return (*_LOOPBACK, host) if _is_loopback(host) else None


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 65535")
    return int(text)
