"""Options and values that several commands take."""

from __future__ import annotations

import argparse
import math
from typing import Any


def add_model(parser: argparse.ArgumentParser) -> Any:
    """Add the options that say which model runs, and on what; their group."""
    group = parser.add_argument_group("model")
    add = group.add_argument
    add("--model", metavar="NAME", help="a name from `vesselseg models`, or a file saved by "
        "vesselseg (default: the model that is part of vesselseg)")  # fmt: skip
    add("--weights", metavar="FILE", help="local file to read in place of the model's own "
        "(default: the package's, the cache's, or downloaded)")  # fmt: skip
    add("--device", default="auto",
        help="auto, cpu, cuda, cuda:1, mps (default: %(default)s, the best there is)")  # fmt: skip
    add("--precision", default="float32",
        help="float32, bfloat16, float16, int8, or auto, the fastest that the device computes "
        "natively; `vesselseg doctor` compares them (default: %(default)s)")  # fmt: skip
    add_backend(add)
    return group


def add_backend(add: Any) -> None:
    """Add the options that say what computes."""
    add("--backend", default="torch",
        help="torch, or openvino, on CPUs, which has int8; needs vesselseg[openvino] "
        "(default: %(default)s)")  # fmt: skip
    add("--calibration", nargs="+", metavar="FILE",
        help="for int8: photographs such as the model will see, from which the ranges of its maps "
        "are taken (default: one that is part of vesselseg)")  # fmt: skip


def scale(text: str) -> str | float:
    """A rule or a positive factor."""
    if text in ("fit", "native", "fov"):
        return text
    factor = _number(text)
    if not (math.isfinite(factor) and factor > 0):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither fit, native, fov nor a positive factor"
        )
    return factor


def threshold(text: str) -> float:
    """A probability."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def positive(text: str) -> int:
    """A count."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
