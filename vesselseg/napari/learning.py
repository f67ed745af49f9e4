"""Fine-tuning in a process of its own, without a viewer: the command, and what it says."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import NamedTuple

from ..files import exists

_ITERATION = re.compile(r"\biteration +(\d+)", re.IGNORECASE)
_DICE = re.compile(r"^iteration +\d+: Dice ([\d.]+)")
_RESULT = re.compile(r"^(Trained on|No measurement) .*")
_LAST_LINES = 3  # shown if the process fails


def suggest_output(folder: Path) -> Path:
    """The first of ``fine-tuned-1.pth``, ``fine-tuned-2.pth``, ... that does not exist."""
    names = (folder / f"fine-tuned-{number}.pth" for number in count(1))
    return next(path for path in names if not exists(path))


def is_interrupted(output: Path) -> bool:
    """Whether a fine-tuning that was to write `output` has left its state, to be resumed."""
    return exists(f"{output}.state") and not exists(output)


class Start(NamedTuple):
    """What to fine-tune, and where."""

    folder: Path
    model: str | Path
    device: str
    bits: int | None


def training_arguments(
    start: Start, output: Path, *, group: str, iterations: int, restart: bool
) -> list[str]:
    """What follows ``python`` on the command line that fine-tunes on the corrections."""
    arguments = [
        "-u", "-X", "utf8", "-m", "vesselseg", "train", str(start.folder), "--corrected",
        "--verbose", "--no-progress", "--output", str(output), "--model", str(start.model),
        "--device", start.device, "--iterations", str(iterations),
    ]  # fmt: skip
    if group:
        arguments += ["--group", group]
    if start.bits is not None:
        arguments += ["--bits", str(start.bits)]
    if restart:
        arguments.append("--restart")
    return arguments


class TrainingOutput:
    """What the process has said so far: iterations, the last Dice in percent, its last lines."""

    def __init__(self) -> None:
        self.iteration: int | None = None  # until it trains
        self.measured: int | None = None  # iteration of the last measurement
        self.dice: float | None = None
        self._result: list[str] = []
        self._lines: list[str] = []
        self._rest = b""

    def add(self, content: bytes) -> None:
        """Take more of the text, which may end within a line or a character."""
        *lines, self._rest = (self._rest + content).split(b"\n")
        for line in map(_decode, lines):
            iteration, dice = _ITERATION.search(line), _DICE.search(line)
            if iteration:
                self.iteration = int(iteration[1])
            if dice:
                self.measured, self.dice = self.iteration, float(dice[1])
            if _RESULT.match(line):
                self._result.append(line)
            self._lines = [*self._lines, line][-_LAST_LINES:]

    @property
    def last_lines(self) -> str:
        """The reason, if the process has failed."""
        return "\n".join(filter(None, [*self._lines, _decode(self._rest)]))

    @property
    def summary(self) -> str:
        """The progress, or at the end what was reached."""
        if self._result:
            return " ".join(self._result)
        if self.dice is None:  # not measured yet, or before it was resumed
            return "Reading and measuring" if self.iteration is None else "Training"
        return f"Dice on held-out subjects after iteration {self.measured}: {self.dice:.2f}"


def _decode(line: bytes) -> str:
    return line.decode(errors="replace").strip().removeprefix("vesselseg: ")
