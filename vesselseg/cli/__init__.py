"""The ``vesselseg`` command: arguments, printing, progress and exit codes.

Each module holds one command or a family of commands and has ``add_parsers(commands)``, which adds
its parsers and sets ``run`` on them: a function from the parsed arguments to an exit code, None for
0. Heavy imports stay inside those functions, so that ``vesselseg --help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from .. import dicom
from ..errors import VesselsegError, did_you_mean
from ..files import exists
from . import app, doctor, evaluate, measure, models, segment, train
from .parser import Parser, add_common_options
from .streams import lasting_streams

_EPILOG = """\
examples:
  vesselseg eye.jpg
  vesselseg photographs/ -o vessels/ --overlay
  vesselseg models
  vesselseg help segment

`vesselseg COMMAND --help` and `vesselseg help COMMAND` describe a command. Research software, not
a medical device."""

_EXIT_CODES = """\
exit code: 0 all done; 1 some photographs or models failed, with a message each; 2 nothing was
done: wrong usage, a missing extra, a model that cannot be loaded, or a place that cannot be
written; 130 interrupted; 143 ended by SIGTERM."""

# Words that can stand before the name of a command. None of them takes a value.
_COMMON = re.compile(r"-[qv]+|--quiet|--verbose|--no-progress")
_TOP_LEVEL = ("-h", "--help", "-V", "--version")


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole command, and those of its commands by name."""
    parser = Parser(
        prog="vesselseg",
        usage="vesselseg COMMAND ...\n       vesselseg IMAGE... [-o OUTPUT] [options]",
        description="Segment the blood vessels in fundus photographs. `vesselseg IMAGE...` is "
        "short for `vesselseg segment IMAGE...`.",
        epilog=_EPILOG,
    )
    parser.set_defaults(quiet=False, verbose=0, progress=True)
    commands: Any = parser.add_subparsers(
        title="commands", metavar="COMMAND", prog="vesselseg", required=True
    )
    for module in (segment, measure, evaluate, train, models, app, doctor):
        module.add_parsers(commands)
    names: dict[str, Parser] = commands.choices
    command = commands.add_parser(
        "help",
        help="describe a command",
        usage="vesselseg help [COMMAND]",
        description="Describe a command, or list all commands.",
        epilog="examples:\n  vesselseg help\n  vesselseg help segment",
    )
    command.add_argument("command", nargs="?", metavar="COMMAND", choices=list(names),
        help="name of a command (default: the list of commands)")  # fmt: skip
    command.set_defaults(run=lambda options: names.get(options.command, parser).print_help())
    for each in (parser, *names.values()):
        add_common_options(each)
        each.epilog = f"{each.epilog}\n\n{_EXIT_CODES}" if each.epilog else _EXIT_CODES
    return parser, names


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, which its help explains.

    Wrong usage raises SystemExit with 2, as argparse does.
    """
    with lasting_streams(), _interrupted_by_signals():
        try:
            return _main(list(sys.argv[1:] if arguments is None else arguments))
        except KeyboardInterrupt as interrupt:
            signals = [each for each in interrupt.args if isinstance(each, signal.Signals)]
            message = f"ended by {signals[0].name}" if signals else "interrupted"
            print(f"vesselseg: {message}", file=sys.stderr)
            return 128 + (signals or [signal.SIGINT])[0]


@contextlib.contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """Let other signals that end a process clean up as Ctrl-C does, unless the host uses them.

    SIGHUP comes when a terminal is closed, and SIGBREAK of Windows then and with Ctrl-Break.
    """

    def interrupt(number: int, _: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number))

    names = ("SIGTERM", "SIGHUP", "SIGBREAK")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    ours = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():  # which alone may set them
        ours = []
    for number in ours:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


def _main(words: list[str]) -> int:
    parser, commands = build_parser()
    if "_ARGCOMPLETE" in os.environ:
        _complete(parser, commands)
    if "" in words:
        parser.error("an argument is empty text, such as a variable of the shell that is not set")
    position = _find_command(words)
    if position is None:
        parser.print_help(sys.stderr)
        return 2
    first = words[position]
    if first not in (*commands, *_TOP_LEVEL):
        hint = did_you_mean(first, commands)
        is_all = position == len(words) - 1
        if (hint or is_all) and first.isalpha() and not exists(first):
            parser.error(f"there is no command and no image {first!r}.{hint}")
        words.insert(position, "segment")
    if words[position] in commands:
        commands[words[position]].check_names(words[position + 1 :])
    options, unknown = parser.parse_known_args(words)
    if unknown:
        commands[words[position]].error(f"unrecognized: {' '.join(unknown)}")
    options.progress = options.progress and not options.quiet
    options.words = words
    dicom.silence()
    with _log_to_standard_error(options):
        try:
            code: int = options.run(options) or 0
            print(end="", flush=True)
            return code
        except (VesselsegError, FileNotFoundError) as error:
            print(f"vesselseg: {error}", file=sys.stderr)
            return 2


def _find_command(words: Sequence[str]) -> int | None:
    """The place of the first word that is not a common option, None if there is none."""
    return next((i for i, word in enumerate(words) if not _COMMON.fullmatch(word)), None)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]  # not a generic before 3.11
    """Writes to standard error, above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm = sys.modules.get("tqdm")  # without it there is no bar
        with tqdm.tqdm.external_write_mode() if tqdm else contextlib.nullcontext():
            super().emit(record)


@contextlib.contextmanager
def _log_to_standard_error(options: argparse.Namespace) -> Iterator[None]:
    """Show what is logged, as much as ``--quiet`` and ``--verbose`` say."""
    handler = _Handler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    handler.setLevel(logging.ERROR if options.quiet else logging.NOTSET)
    logger = logging.getLogger("vesselseg")
    level = logger.level
    logging.root.addHandler(handler)
    if options.verbose:
        logger.setLevel(logging.INFO if options.verbose == 1 else logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)
        logging.root.removeHandler(handler)


def _complete(parser: Parser, commands: dict[str, Parser]) -> None:
    """Answer a shell that asks how a line can go on, and end; without argcomplete do nothing."""
    try:
        import argcomplete
    except ImportError:
        return
    line = os.environ.get("COMP_LINE", "")[: int(os.environ.get("COMP_POINT", "0"))]
    words = line.split()[int(os.environ["_ARGCOMPLETE"]) :]
    if not line.endswith(" "):
        words = words[:-1]  # the last word is the one to complete
    position = _find_command(words)
    if position is not None and words[position] not in (*commands, *_TOP_LEVEL):
        parser = commands["segment"]  # the short form
    argcomplete.autocomplete(parser, always_complete_options=False)
