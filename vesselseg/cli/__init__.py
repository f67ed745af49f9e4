"""The ``vesselseg`` command: arguments, printing, progress and exit codes.

Each module holds one command or a family of commands and has ``add_parsers(commands)``, which adds
its parsers and sets ``run`` on them: a function from the parsed arguments to an exit code. Heavy
imports stay inside those functions, so that ``vesselseg --help`` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import dicom
from .._version import __version__
from ..errors import DeviceError, OptionError, UnknownModelError, VesselsegError, did_you_mean
from . import app, doctor, evaluate, measure, models, segment, train


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the whole command, and those of its commands by name."""
    parser = argparse.ArgumentParser(
        prog="vesselseg",
        description="Segment the blood vessels in fundus photographs.\n"
        "`vesselseg IMAGE... -o OUT` is short for `vesselseg segment IMAGE... -o OUT`.",
        epilog="`vesselseg COMMAND --help` lists the options of a command.\n"
        "Research software, not a medical device.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vesselseg {__version__}")
    commands: Any = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (segment, measure, evaluate, train, models, app, doctor):
        module.add_parsers(commands)
    return parser, commands.choices


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: done; 1: something failed, and a message says what; 2: wrong usage; 130: interrupted.
    """
    _replace_missing_streams()
    parser, commands = build_parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in (*commands, "-h", "--help", "--version"):
        hint = did_you_mean(words[0], commands)
        if hint and words[0].isalpha() and not Path(words[0]).exists():
            parser.error(f"there is no command and no image {words[0]!r}.{hint}")
        words.insert(0, "segment")
    options, unknown = parser.parse_known_args(words)
    if unknown:
        command = commands[words[0]]
        known = [text for action in command._actions for text in action.option_strings]
        command.error(f"unrecognized: {' '.join(unknown)}.{did_you_mean(unknown[0], known)}")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    dicom.silence()
    try:
        code: int = options.run(options)
        return code
    except KeyboardInterrupt:
        message, code = "interrupted", 130
    except (VesselsegError, FileNotFoundError) as error:
        is_usage = isinstance(error, (OptionError, UnknownModelError, DeviceError))
        message, code = str(error), 2 if is_usage else 1
    print(f"vesselseg: {message}", file=sys.stderr)
    return code


def _replace_missing_streams() -> None:
    """Let a process without a console, whose streams are None, read and write nothing.

    Without standard error, `print` would write messages between results on standard output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115
