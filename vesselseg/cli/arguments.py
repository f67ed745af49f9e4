"""Values that several commands take."""

from __future__ import annotations

import argparse
import math


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
