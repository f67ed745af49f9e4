"""``vesselseg app``: a web page on this machine."""

from __future__ import annotations

import argparse
import contextlib
import functools
import ipaddress
import re
import socket
import sys
import threading
import webbrowser
from pathlib import Path
from typing import Any

from ..errors import OptionError, require
from . import arguments

_DESCRIPTION = """\
Serve a web page on this machine: drop photographs, see their vessels, move threshold and opacity,
download masks, overlays, measures and a manifest. Ctrl-C ends it.

Photographs and results stay in the memory of this process until the page is closed; the oldest
results give way to new ones. Nothing is written to disk, and nothing is sent to or loaded from
another host. The page offers the model given here, the embedded one, and those that `vesselseg
download` has put into the cache."""

_EPILOG = """\
examples:
  vesselseg app --open
  vesselseg app --port 8080 --max-upload 200

behind a proxy that serves the page as https://eye.example/vessels/:
  vesselseg app --allow-host eye.example --root-path /vessels"""

_port = functools.partial(
    arguments.to_integer, least=0, most=65535, fault="not an integer from 0 to 65535"
)


def add_parsers(commands: Any) -> None:
    """Add the parser of ``app``."""
    parser = commands.add_parser(
        "app",
        help="serve a web page on this machine to try photographs",
        usage="vesselseg app [--port N] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    add = parser.add_argument_group("page").add_argument
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="address to listen at; one other "
        "than 127.0.0.1 lets other machines in (default: %(default)s)")  # fmt: skip
    add("--port", type=_port, default=8000, metavar="N",
        help="port to listen at, 0 for any free one (default: %(default)s)")  # fmt: skip
    add("--open", action="store_true",
        help="open the page in the browser of this machine (default: no)")  # fmt: skip
    add("--allow-host", type=_host_name, action="append", default=[], metavar="NAME",
        help="also answer to requests for this name, under which you or a proxy serve the page; "
        "can be repeated (default: the names of this machine's own address; any, if other "
        "machines are let in)")  # fmt: skip
    add("--root-path", type=_root_path, default="/", metavar="PATH",
        help="path under which a proxy serves the page, such as /vessels "
        "(default: %(default)s)")  # fmt: skip
    add("--max-upload", type=arguments.positive, default=50, metavar="MB",
        help="largest file that is accepted, in megabytes (default: %(default)s)")  # fmt: skip
    arguments.add_model_options(parser, max_pixels=50_000_000)
    parser.set_defaults(run=_app)


def _host_name(text: str) -> str:
    """The name of a host, without a port."""
    if not re.fullmatch(r"[\w.-]+|[0-9a-fA-F:]+", text, re.ASCII):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the name of a host, such as eye.example, without https:// and port"
        )
    return text.lower()


def _root_path(text: str) -> str:
    """A path such as ``/vessels``; "" for the root."""
    if not re.fullmatch(r"(/[\w.~-]+)*/?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a path such as /vessels")
    return text.rstrip("/")


def _app(options: argparse.Namespace) -> int:
    """Serve the page until it is interrupted."""
    import asyncio  # takes a while

    require("starlette", "app")
    uvicorn = require("uvicorn", "app")
    from ..app.server import OfferedModels, make_app

    host = options.host
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as bound:
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, options.port))
        except OSError as error:
            raise OptionError(
                f"Cannot listen at port {options.port} of {host!r}: {error.strerror or error}. "
                f"Choose another port, --port N, or --port 0 for any free one; --host takes an "
                f"address of this machine."
            ) from error
        address, used_port = bound.getsockname()[:2]
        is_loopback = ipaddress.ip_address(address).is_loopback
        hosts = None
        if is_loopback or options.allow_host:
            hosts = ("127.0.0.1", "localhost", "::1", host)
        # The first model is loaded before anything listens, so that no client waits for it.
        first = arguments.load_model(options)
        name = first.spec.name
        file = options.weights or (options.model if options.model != name else None)
        if file:
            name += f" ({Path(file).name})"
        load = functools.partial(arguments.load_model, options, weights=None)
        server = make_app(
            OfferedModels(first, name, load),
            max_upload=options.max_upload * 10**6,
            hosts=hosts,
            proxies=options.allow_host,
            root_path=options.root_path,
        )
        config = uvicorn.Config(
            server, loop="asyncio", http="h11", ws="none", lifespan="off", log_config=None,
            log_level="warning", access_log=False, server_header=False,
            timeout_graceful_shutdown=3,
        )  # fmt: skip
        bound.listen(100)
        if not is_loopback and not options.quiet:
            print(
                f"vesselseg: anybody who reaches port {used_port} of this machine can use the "
                f"page; there is no password and nothing is encrypted.",
                file=sys.stderr,
            )
        url = to_url(host, used_port) + f"{options.root_path}/".removeprefix("/")
        print(f"vesselseg: {url} (Ctrl-C ends it)", flush=True)
        if options.open:  # its requests wait until the server runs; some browsers do not return
            threading.Thread(target=_open_browser, args=(url, options.quiet), daemon=True).start()
        serving = uvicorn.Server(config).serve(sockets=[bound])
        with contextlib.closing(serving), contextlib.suppress(KeyboardInterrupt):  # the normal end
            asyncio.run(serving)
    return 0


def _open_browser(url: str, quiet: bool) -> None:
    if not webbrowser.open(url) and not quiet:
        print(f"vesselseg: no browser was found; open {url} in one.", file=sys.stderr)


def to_url(host: str, port: int) -> str:
    """The address to open in a browser."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{shown}]:{port}/" if ":" in shown else f"http://{shown}:{port}/"
