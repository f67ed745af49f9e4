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
    from ..app.memory import OfferedModels

_DESCRIPTION = """\
Serve a web page on this machine: drop a photograph, see its vessels, move threshold and opacity,
download mask and overlay. Ctrl-C ends it.

Photographs and results stay in the memory of this process, the last four of them, until the page
is closed; nothing is written to disk, and nothing is sent to or loaded from another host. The page
offers the model given here, the embedded one, and those that `vesselseg download` has put into the
cache."""

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
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at; one other "
        "than 127.0.0.1 lets other machines in (default: %(default)s)")  # fmt: skip
    add("--port", type=port, default=8000, metavar="N",
        help="port to listen at, 0 for any free one (default: %(default)s)")  # fmt: skip
    add("--max-upload", type=arguments.positive, default=50, metavar="MB",
        help="largest file that is accepted, in megabytes (default: %(default)s)")  # fmt: skip
    add("--max-pixels", type=arguments.positive, default=50_000_000, metavar="N",
        help="largest image that is decoded (default: %(default)s)")  # fmt: skip
    arguments.add_model_options(parser)
    parser.set_defaults(run=app)


def port(text: str) -> int:
    """A port number."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer from 0 to 65535")
    return int(text)


def app(options: argparse.Namespace) -> int:
    """Serve the page until it is interrupted."""
    try:
        import uvicorn

        from ..app.server import make_app
    except ImportError as error:
        raise MissingExtraError(
            f"The page needs {error.name or 'a package'}, which is not installed. Install it: "
            f'pip install "vesselseg[app]".'
        ) from error
    is_loopback = options.host == "localhost"
    with contextlib.suppress(ValueError):
        is_loopback = ipaddress.ip_address(options.host).is_loopback
    with bind(options.host, options.port) as bound:
        # The model is loaded before anything listens, so that no client waits for it.
        models = load_models(options)
        hosts = (*_LOOPBACK, options.host) if is_loopback else None
        server = make_app(models, max_upload=options.max_upload * 10**6, hosts=hosts)
        config = uvicorn.Config(
            server, loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None,
            log_level="warning", access_log=False, server_header=False,
            timeout_graceful_shutdown=3,
        )  # fmt: skip
        bound.listen(100)
        used = bound.getsockname()[1]
        if not is_loopback:
            print(
                f"vesselseg: anybody who reaches port {used} of this machine can use the page; "
                f"there is no password and nothing is encrypted.",
                file=sys.stderr,
            )
        print(f"vesselseg: {to_url(options.host, used)} (Ctrl-C ends it)", flush=True)
        with contextlib.suppress(KeyboardInterrupt):  # the normal end
            uvicorn.Server(config).run(sockets=[bound])
    return 0


def load_models(options: argparse.Namespace) -> OfferedModels:
    """The models to offer; the first is loaded now, so that a mistake is reported now."""
    from ..app.memory import OfferedModels
    from ..segmenter import Segmenter

    def load(name: str) -> Segmenter:
        return arguments.load_model(
            options, model=name, weights=None, max_pixels=options.max_pixels
        )

    first = arguments.load_model(options, max_pixels=options.max_pixels)
    name = first.spec.name
    file = options.weights or (options.model if options.model != name else None)
    if file:
        name += f" ({Path(file).name})"
    return OfferedModels(first, name, load)


def bind(host: str, port: int) -> socket.socket:
    """A socket with this address that does not listen yet."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise OptionError(
            f"Cannot listen at port {port} of {host!r}: {error.strerror or error}. Choose another "
            f"port, --port N, or --port 0 for any free one; --host takes an address of this "
            f"machine."
        ) from error
    return bound


def to_url(host: str, port: int) -> str:
    """The address to open in a browser."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"
