"""What is told while a run over images goes on."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ..batch.manifest import Line, Manifest
from ..batch.plan import Job


class Progress:
    """What is told of each image: the bar, the manifest, and why it failed."""

    def __init__(self, bar: tqdm[Any], manifest: Manifest | None) -> None:
        self.done = self.failed = 0
        self._bar, self._manifest = bar, manifest

    def __call__(self, job: Job, line: Line) -> None:
        if self._manifest:
            self._manifest.add(line)
        error = line.get("error")
        if error is None:
            self.done += 1
        else:
            self.failed += 1
            named = error if job.name in error else f"{job.name}: {error}"
            self._bar.write(f"vesselseg: {named}", file=sys.stderr)
        self._bar.update()


class Names(logging.Filter):
    """Puts the image's name in front of the warnings about its size."""

    _prefix = ""

    def set(self, job: Job) -> None:
        """Name the image that comes next."""
        self._prefix = f"{job.name}: ".replace("%", "%%")

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = f"{self._prefix}{record.msg}"
        return True


@contextlib.contextmanager
def named_warnings(bar: tqdm[Any]) -> Iterator[Names]:
    """Warnings name their image, and are printed above the bar where there is one."""
    names = Names()
    logger = logging.getLogger("vesselseg.preprocess")
    logger.addFilter(names)
    try:
        if bar.disable:
            yield names
        else:
            with logging_redirect_tqdm():
                yield names
    finally:
        logger.removeFilter(names)
