"""What commands over many photographs share: their options, progress, and the run itself."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, VesselsegError, redact
from . import arguments

if TYPE_CHECKING:
    from ..batch.folder import Summary
    from ..batch.jobs import Job
    from ..batch.table import Row
    from ..batch.work import Work
    from ..segmenter import Segmenter


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add which images are taken, and on which machines."""
    add = parser.add_argument_group("which images").add_argument
    add("-r", "--recursive", action="store_true", help="search subfolders (default: no)")
    add("--resume", action="store_true",
        help="skip images that are done: their results exist and agree in everything that decides "
        "them (weights, model spec, scale, threshold, bits, precision, backend, style, the image "
        "itself) (default: do them again)")  # fmt: skip
    add("--part", type=_part, default=(1, 1), metavar="I/N",
        help="the I-th of N shares of the sorted list, I from 1 to N (default: 1/1)")  # fmt: skip
    add("--on-error", choices=("continue", "stop"), default="continue",
        help="what to do if an image fails: go on with the others, or stop "
        "(default: %(default)s)")  # fmt: skip
    add = parser.add_argument_group("more than one machine").add_argument
    add("--executor", choices=("local", "ray"), default="local",
        help="ray: on the workers of a Ray cluster; IMAGE and OUTPUT can be addresses such as "
        "s3://bucket/folder; needs the extra ray (default: %(default)s)")  # fmt: skip
    add("--address", metavar="ADDRESS", help="of the Ray cluster, such as auto or "
        "HOST:6379 (default: RAY_ADDRESS, or else a Ray on this machine for this run)")  # fmt: skip


def check_options(options: argparse.Namespace) -> None:
    """Raise OptionError for options that do not go together."""
    from ..batch.folder import refuse_addresses

    places = [place for place in (options.output, *options.inputs) if place is not None]
    if options.executor == "ray":
        if "-" in places:
            raise OptionError(
                "--executor ray needs files and folders, not standard input or output."
            )
        return
    if options.address is not None:
        raise OptionError("--address is that of a Ray cluster. Add --executor ray.")
    refuse_addresses(places)


def run(
    options: argparse.Namespace,
    jobs: Sequence[Job],
    work: Work,
    *,
    verb: str,
    where: str,
    needs_model: bool = True,
    **tables: Any,
) -> int:
    """Run a share of jobs; print progress, warnings, errors and a summary; return the exit code."""
    from ..batch.folder import run_collection

    number, total = options.part
    jobs = jobs[number - 1 :: total]
    if any(job.name == "-" for job in jobs):
        work = replace(work, stdin=arguments.read_standard_input())
    execute = None
    changes: dict[str, Any] = {}
    if options.executor == "ray":
        from ..ray import run_on_cluster

        execute = partial(
            run_on_cluster,
            address=options.address,
            device=options.device,
            precision=options.precision,
        )
        changes = {"device": "cpu", "precision": None}  # it is loaded here and sent to the workers
        work = replace(work, precision=options.precision, folder=str(Path.cwd()))

    def load() -> Segmenter | None:
        return arguments.load_model(options, **changes) if needs_model else None

    report = _Report(verb, where, options)
    log = logging.getLogger("vesselseg.segmenter")
    was_disabled, log.disabled = log.disabled, True  # rows have its warnings, and name the image
    try:
        run_collection(
            jobs,
            work,
            load,
            resume=options.resume,
            on_begin=report.begin,
            on_row=report.add,
            progress=options.progress,
            execute=execute,
            **tables,
        )
    except _Stopped:
        pass
    except VesselsegError as error:
        if report.summary is None:
            raise
        print(f"vesselseg: {error}", file=sys.stderr)
        return 1
    finally:
        log.disabled = was_disabled
        report.end()
    return 1 if report.summary and report.summary.failed else 0


def printable(name: str) -> str:
    """A name as a line of a terminal can have it: no password, line break or control character."""
    shown = redact(name) if "://" in name else name
    return shown if shown.isprintable() else repr(shown)


def _part(text: str) -> tuple[int, int]:
    """A share of the list, such as 2/8."""
    number, _, total = text.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, such as 2/8")
    return int(number), int(total)


class _Stopped(Exception):  # noqa: N818
    """Ends a run after the first image that fails, as ``--on-error stop`` asks."""


class _Report:
    """Prints the warnings and errors of images, and a summary at the end."""

    def __init__(self, verb: str, where: str, options: argparse.Namespace) -> None:
        self.verb, self.where, self.options = verb, where, options
        self.summary: Summary | None = None

    def begin(self, summary: Summary) -> None:
        self.summary, self.begun = summary, time.perf_counter()

    def add(self, row: Row) -> None:
        """Print what is to be said of an image that is finished."""
        from tqdm import tqdm  # which writes above a bar

        error, name = row.get("error"), printable(row["input"])
        if error is not None:
            named = error if name in error else f"{name}: {error}"
            tqdm.write(f"vesselseg: {named}", file=sys.stderr)
            if self.options.on_error == "stop":
                raise _Stopped
        elif row["warning"] and not self.options.quiet:
            tqdm.write(f"WARNING: {name}: {row['warning']}", file=sys.stderr)

    def end(self) -> None:
        """Print the summary of a run that began."""
        if self.summary is None or self.options.quiet:
            return
        done, skipped = self.summary.segmented, self.summary.skipped
        repeated = ""
        if self.summary.repeated:
            repeated = f" ({self.summary.repeated} again, since their settings or files differed)"
        shown = f"; {printable(self.where)}" if done or skipped else ""
        print(
            f"vesselseg: {done} {self.verb}{repeated}, {skipped} skipped, {self.summary.failed} "
            f"failed, in {time.perf_counter() - self.begun:.1f} s{shown}",
            file=sys.stderr,
        )
