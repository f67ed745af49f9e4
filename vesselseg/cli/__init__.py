"""The ``vesselseg`` command: arguments, printing, progress and exit codes.

One module per command or family of commands. Each has ``add_parsers(commands)``, which adds its
parsers and sets ``run`` on them: a function from the parsed arguments to an exit code. Heavy
imports stay inside those functions, so that ``vesselseg --help`` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from .. import __version__
from ..errors import VesselsegError
from . import models, weights

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command."""
    parser = argparse.ArgumentParser(
        prog="vesselseg",
        description="Find the blood vessels in photographs of the retina.",
        epilog="Research software, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"vesselseg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (models, weights):
        module.add_parsers(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code.

    0: done; 1: something failed, and it was said what; 2: wrong usage; 130: interrupted.
    """
    options = build_parser().parse_args(arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        code: int = options.run(options)
    except (VesselsegError, FileNotFoundError) as error:
        print(f"vesselseg: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("vesselseg: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return code
