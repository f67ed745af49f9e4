"""Quantise an exported network to int8 with NNCF.

NNCF prints, draws random numbers and changes the logging of its process, so it runs in one of
its own: ``python -m vesselseg.backends.quantize FOLDER`` reads float.onnx and windows.npz in the
folder, and writes int8.onnx.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import OptionError, ResourceError, missing_extra, require
from ..fov import find_field_of_view
from ..images import RGB, ImageLike, is_single, to_rgb
from ..preprocess import check_scale, preprocess
from ..sliding import round_up, windows
from ..spec import ModelSpec
from ..telemetry import without_telemetry

logger = logging.getLogger(__name__)

_PHOTOGRAPH = Path(__file__).parents[1] / "embedded" / "fundus.jpg"
"""The photograph for calibration if the caller gives none.

A normal left eye, by Mikael Häggström, 2014 (doi:10.15347/wjm/2014.008), in the public domain
(CC0), reduced to 1000 x 1000 pixels.
"""

# These convolutions stay float: the first see the photograph's 256 levels, the last decide.
_FLOAT_LAYERS = r"(encoder\.0|head)\..*"
_FLOAT_TYPES = ["MatMul"]  # of the PSPNet head, which average the maps over its bins
_MIN_PIXELS, _MIN_WINDOWS = 2**19, 8  # of all calibration windows together


def calibration_windows(
    images: Sequence[ImageLike] | None, spec: ModelSpec, max_pixels: int, bits: int | None = None
) -> list[RGB]:
    """Windows (h, w, 3) in the network's scale and colours, spread evenly over all images."""
    if is_single(images):
        raise OptionError(
            f"calibration takes several images, not one of type {type(images).__name__}; for one, "
            f"pass a list of it."
        )
    images = [_PHOTOGRAPH] if images is None else list(images)
    if not images:
        raise OptionError(
            "calibration has no images. Pass a few representative photographs, or leave it out to "
            "use the one in the package."
        )
    rule = check_scale(None, spec)
    per_image = math.ceil(max(_MIN_WINDOWS, _MIN_PIXELS // spec.crop**2) / len(images))
    selected = []
    for image in images:
        rgb = to_rgb(image, max_pixels, bits)
        scaled = preprocess(rgb, find_field_of_view(rgb), rule, spec, max_pixels).scaled
        height, width = scaled.shape[:2]
        candidates = windows(height, width, spec.crop, spec.stride)
        count = min(per_image, len(candidates))
        for place in np.linspace(0, len(candidates) - 1, count).round().astype(int):
            top, bottom, left, right = candidates[place]
            pixels = scaled[top:bottom, left:right]
            padding = [(0, round_up(side, spec.size_divisor) - side) for side in pixels.shape[:2]]
            selected.append(np.pad(pixels, [*padding, (0, 0)], mode="edge"))
    return selected


def quantize(model: Any, calibration: list[RGB]) -> Any:
    """Quantise an ``onnx.ModelProto`` in another process; return it in int8.

    `calibration` are the windows from which the ranges of the maps are taken.
    """
    for package in ("nncf", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise missing_extra(package, "openvino", "it is not installed")
    if not sys.executable or getattr(sys, "frozen", False):
        raise OptionError(
            "To export a model in int8 needs a Python process, which this program cannot start. "
            "Export it with Python; the file can be copied."
        )
    onnx = require("onnx", "openvino")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        onnx.save(model, folder / "float.onnx")
        np.savez(folder / "windows.npz", *calibration)
        finished = subprocess.run(
            [sys.executable, "-m", __name__, name],
            cwd=folder,  # has no files that could be imported by mistake
            env={
                "HOME": name,  # libraries ask for a home folder, which a user may not have
                **os.environ,
                "PYTHONPATH": os.pathsep.join(os.path.abspath(folder) for folder in sys.path),  # noqa: PTH100
            },
            stdin=subprocess.DEVNULL, capture_output=True, check=False,
            encoding="utf-8", errors="replace",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # of Windows
        )  # fmt: skip
        if finished.returncode:
            logger.debug("%s", finished.stderr)
            reason = finished.stderr.strip().rpartition("\n")[2] or f"code {finished.returncode}"
            raise ResourceError(
                f"The network could not be quantised: {reason}. If memory is short, free some, or "
                f"export the model in float32, which needs no quantising."
            )
        return onnx.load(folder / "int8.onnx")


def _run_nncf(folder: Path) -> None:
    """Quantise the model in `folder`; see the docstring of this module."""
    onnx, nncf = require("onnx", "openvino"), require("nncf", "openvino")
    with np.load(folder / "windows.npz") as arrays:
        data = [{"image": arrays[name].transpose(2, 0, 1)[None]} for name in arrays.files]
    model = nncf.quantize(
        onnx.load(folder / "float.onnx"),
        nncf.Dataset(data),
        subset_size=len(data),
        preset=nncf.QuantizationPreset.MIXED,
        # Layers are corrected one by one, each after those before it. The fast way makes masks
        # wider or thinner and costs half a point of Dice.
        fast_bias_correction=False,
        # Not validated, since most heads have no layers of these types.
        ignored_scope=nncf.IgnoredScope(
            patterns=[_FLOAT_LAYERS], types=_FLOAT_TYPES, validate=False
        ),
    )
    onnx.save(model, folder / "int8.onnx")


if __name__ == "__main__":
    with without_telemetry():
        _run_nncf(Path(sys.argv[1]))
