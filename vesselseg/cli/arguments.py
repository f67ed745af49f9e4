"""Options and types that several commands share, and the one loader of models."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from ..spec import SCALES, is_factor

if TYPE_CHECKING:
    from ..segmenter import Segmenter


def add_model_options(
    parser: argparse.ArgumentParser, *, several: bool = False, max_pixels: int = 200_000_000
) -> Any:
    """Add the options that :func:`load_model` reads; return their group.

    With `several`, ``--model`` can be repeated and is a list.
    """
    group = parser.add_argument_group("model")
    add = group.add_argument
    repeat = "; repeat it to compare several" if several else ""
    add("--model", metavar="NAME", action="append" if several else "store",
        help=f"a name from `vesselseg models`, or a file saved or exported by vesselseg{repeat} "
        "(default: the embedded model)")  # fmt: skip
    add("--weights", metavar="FILE", help="local weights file to read instead of the model's own "
        "(default: the package's, the cache's, or a download)")  # fmt: skip
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps "
        "(default: %(default)s, the best available)")  # fmt: skip
    add("--precision",
        help="float32, bfloat16, float16, int8, or auto, the fastest that the device computes "
        "natively; `vesselseg doctor` compares them (default: int8 for a file that was exported "
        "in int8, else float32)")  # fmt: skip
    add("--backend", help="program that runs the network, such as openvino "
        "(default: torch, or onnxruntime for an .onnx file)")  # fmt: skip
    add("--stride", type=positive, metavar="N",
        help="pixels between the starts of the windows; fewer let them overlap more "
        "(default: the model's own)")  # fmt: skip
    add("--batch-size", type=positive, metavar="N",
        help="windows computed at once (default: what suits the device)")  # fmt: skip
    add("--max-pixels", type=positive, default=max_pixels, metavar="N",
        help="reject larger images (default: %(default)s)")  # fmt: skip
    return group


def add_run_options(group: Any) -> None:
    """Add what every call of a model takes: ``--scale``, ``--threshold`` and ``--bits``."""
    group.add_argument("--scale", type=_scale, metavar="RULE",
        help="fit (into the size of the model's data set), native, fov (field of view brought to "
        "the model's diameter), or a factor (default: the model's own rule)")  # fmt: skip
    group.add_argument("--threshold", type=_threshold, default=0.5, metavar="P",
        help="pixels above this probability are vessel, 0 to 1 (default: %(default)s)")  # fmt: skip
    add_bits(group)


def add_bits(group: Any) -> None:
    """Add ``--bits``."""
    group.add_argument("--bits", type=int, metavar="N",
        help="significant bits in 16-bit images, for example 12 if values run from 0 to 4095 "
        "(default: all, with a warning if fewer seem to be used)")  # fmt: skip


def add_measure_options(add: Any) -> None:
    """Add what :func:`measure_options` reads."""
    add("--mm-per-pixel", type=_factor, metavar="MM",
        help="size of a pixel on the retina, to measure in millimetres as well "
        "(default: unknown)")  # fmt: skip
    add("--fill-holes", type=_count, metavar="N", default=20,
        help="holes of at most N pixels are pinholes in a vessel and are filled before it is "
        "measured; larger ones are loops (default: %(default)s; 0 fills none)")  # fmt: skip
    add("--min-size", type=_count, metavar="N", default=20,
        help="parts of fewer than N pixels are specks and are removed before vessels are measured "
        "(default: %(default)s; 0 removes none)")  # fmt: skip


def measure_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say of measuring, as arguments of :func:`vesselseg.measure`."""
    return {name: getattr(options, name) for name in ("mm_per_pixel", "fill_holes", "min_size")}


def load_model(options: argparse.Namespace, **changes: Any) -> Segmenter:
    """Load the model that the options name; `changes` are arguments of ``load_model``."""
    from ..api import load_model

    names = ("model", "weights", "device", "precision", "backend", "stride", "batch_size",
             "max_pixels")  # fmt: skip
    arguments = {**{name: getattr(options, name) for name in names}, **changes}
    return load_model(**{name: value for name, value in arguments.items() if value is not None})


def _scale(text: str) -> str | float:
    """A scale rule or a positive factor."""
    if text in SCALES:
        return text
    try:
        return _factor(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither {', '.join(SCALES)} nor a positive factor"
        ) from error


def _factor(text: str) -> float:
    """A positive number."""
    value = _number(text)
    if not is_factor(value):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def _threshold(text: str) -> float:
    """A probability."""
    value = _number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _number(text: str) -> float:
    """A number, or NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def positive(text: str) -> int:
    """A positive integer."""
    if not _is_count(text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _count(text: str) -> int:
    """An integer from 0."""
    if not _is_count(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels, 0 or more")
    return int(text)


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 18
