"""Options and types that several commands share, and the one loader of models."""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..choices import BACKENDS, DEVICES, PRECISIONS, canonical_device, canonical_precision
from ..process import limit_threads
from ..spec import SCALES, is_factor

if TYPE_CHECKING:
    from ..segmenter import Segmenter

logger = logging.getLogger(__name__)


def _to_number(text: str, *, is_allowed: Callable[[float], bool], fault: str) -> float:
    """The number that a text is; ArgumentTypeError if it is none that is allowed."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not is_allowed(value):
        raise argparse.ArgumentTypeError(f"{text!r} is {fault}")
    return value


def to_integer(text: str, *, least: int, most: int = 10**18 - 1, fault: str) -> int:
    """The integer that a text of digits is; ArgumentTypeError if it is not in the range."""
    is_short = text.isascii() and text.isdecimal() and len(text) <= 18
    if not (is_short and least <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"{text!r} is {fault}")
    return int(text)


# Types of options.
positive = partial(to_integer, least=1, fault="not a positive integer")
_count = partial(to_integer, least=0, fault="not a number of pixels, 0 or more")
_factor = partial(_to_number, is_allowed=is_factor, fault="not a positive number")
_threshold = partial(
    _to_number, is_allowed=lambda value: 0 <= value <= 1, fault="not a number from 0 to 1"
)
share = partial(
    _to_number, is_allowed=lambda value: 0 < value < 1, fault="not a number between 0 and 1"
)


def add_model_options(
    parser: argparse.ArgumentParser, *, several: bool = False, max_pixels: int = 200_000_000
) -> Any:
    """Add the options that :func:`load_model` reads; return their group.

    With `several`, ``--model`` can be repeated and is a list.
    """
    group = parser.add_argument_group("model")
    add = group.add_argument
    repeat = "; repeat it to compare several" if several else ""
    complete(
        add("--model", metavar="MODEL", action="append" if several else "store",
            help=f"a name from `vesselseg models`, or a file saved or exported by vesselseg"
            f"{repeat} (default: the embedded model)"),
        model_names,
    )  # fmt: skip
    add_weights(group)
    add_device(group)
    add("--precision", type=canonical_precision, choices=PRECISIONS, metavar="PRECISION",
        help="float32 (or fp32), bfloat16 (bf16), float16 (fp16, half), int8, or auto, the "
        "fastest that the device computes natively; `vesselseg doctor` compares them "
        "(default: int8 for a file that was exported in int8, else float32)")  # fmt: skip
    add("--backend", choices=list(BACKENDS), metavar="BACKEND",
        help="program that runs the network: torch, onnxruntime or openvino "
        "(default: torch, or onnxruntime for an .onnx file)")  # fmt: skip
    add("--stride", type=positive, metavar="N",
        help="pixels between the starts of the windows; fewer let them overlap more "
        "(default: the model's own)")  # fmt: skip
    add("--batch-size", type=positive, metavar="N",
        help="windows computed at once (default: what suits the device)")  # fmt: skip
    add("--max-pixels", type=positive, default=max_pixels, metavar="N",
        help="reject larger images (default: %(default)s)")  # fmt: skip
    return group


def add_weights(group: Any) -> None:
    """Add ``--weights``."""
    group.add_argument("--weights", metavar="FILE",
        help="local weights file to read instead of the model's own (default: the package's, the "
        "cache's, or a download)")  # fmt: skip


def add_device(group: Any) -> None:
    """Add ``--device``."""
    complete(
        group.add_argument("--device", type=canonical_device, default="auto",
            help="auto, cpu, cuda (or gpu), cuda:1 or mps (default: %(default)s, the best "
            "available)"),
        lambda: DEVICES,
    )  # fmt: skip


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


def complete(action: Any, words: Callable[[], Iterable[str]]) -> None:
    """Let shells offer these words for an argument; without any that fits they offer files."""
    action.completer = lambda **_: words()


def model_names() -> list[str]:
    """The names in the registry."""
    from ..registry import list_models

    return [spec.name for spec in list_models()]


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


def chosen(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What the options say, as arguments of these names."""
    return {name: getattr(options, name) for name in names}


def measure_options(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say of measuring, as arguments of :func:`vesselseg.measure`."""
    return chosen(options, "mm_per_pixel", "fill_holes", "min_size")


def load_model(options: argparse.Namespace, **changes: Any) -> Segmenter:
    """Load the model that the options name; `changes` are arguments of ``load_model``."""
    from ..api import load_model

    limit_threads()
    named = chosen(
        options, "model", "weights", "device", "precision", "backend", "stride", "batch_size",
        "max_pixels", "progress",
    )  # fmt: skip
    model = load_model(**named | changes)
    logger.info(
        "Model %s on %s in %s, with the backend %s.",
        model.spec.name, model.device, model.precision, model.backend,
    )  # fmt: skip
    return model


def _scale(text: str) -> str | float:
    fault = f"neither {', '.join(SCALES)} nor a positive factor"
    return text if text in SCALES else _to_number(text, is_allowed=is_factor, fault=fault)


def read_standard_input() -> bytes:
    """The bytes of standard input; none in a process without a console."""
    return b"" if sys.stdin is None else sys.stdin.buffer.read()
