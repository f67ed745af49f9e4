"""The parser of every command: mistakes in one line with what is meant, help that wraps."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from .._version import __version__
from ..errors import did_you_mean


class _HelpFormatter(argparse.HelpFormatter):
    """Wraps descriptions paragraph by paragraph, except for those with indented lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:  # noqa: ARG002
        return "\n\n".join(
            paragraph if "\n  " in paragraph else textwrap.fill(paragraph, width)
            for paragraph in text.split("\n\n")
        )


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong and what is meant, and exits with 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(add_help=False, formatter_class=_HelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        """Print a mistake and exit with 2."""
        text = message.removeprefix("argument ")  # which is often an option
        text += "" if text.endswith((".", "?")) else "."
        if not text.endswith("?"):
            text += f" `{self.prog} --help` explains."
        self.exit(2, f"vesselseg: {text}\n")

    def check_names(self, words: Sequence[str]) -> None:
        """Exit with 2 if one of the words looks like an option, but there is none of that name."""
        known = [name for action in self._actions for name in action.option_strings]
        for word in words:
            name = word.partition("=")[0]
            if name == "--":
                return
            if name.startswith("--") and not any(each.startswith(name) for each in known):
                self.error(f"there is no option {name}.{did_you_mean(name, known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise ArgumentError for a value that is not among the choices."""
        if action.choices is not None and value not in action.choices:
            allowed = list(map(str, action.choices))
            raise argparse.ArgumentError(
                action,
                f"{value!r} is not one of {', '.join(allowed)}.{did_you_mean(value, allowed)}",
            )


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add what every command takes, before or after its name.

    The parser of a command sets no defaults, so that it keeps what stood before its name.
    """
    add = parser.add_argument_group("general options").add_argument
    add("-h", "--help", action="help", help="print this help and exit")
    add("-V", "--version", action="version", version=f"vesselseg {__version__}",
        help="print the version and exit")  # fmt: skip
    add("-q", "--quiet", action="store_true", default=argparse.SUPPRESS,
        help="print results and errors only: no progress, warnings or summary "
        "(default: no)")  # fmt: skip
    add("-v", "--verbose", action="count", default=argparse.SUPPRESS,
        help="say more of what is done; -vv says all (default: no)")  # fmt: skip
    add("--no-progress", dest="progress", action="store_false", default=argparse.SUPPRESS,
        help="draw no progress bar, not even on a terminal (default: no)")  # fmt: skip
