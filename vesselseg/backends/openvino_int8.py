"""A network in 8 bits for OpenVINO: quantised once by NNCF, then kept in the cache folder."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import cache, fov, preprocess
from ..errors import MissingExtraError, OptionError, ResourceError
from ..images import ImageLike, to_rgb
from ..spec import ModelSpec
from ..unet import UNet
from ..windows import round_up, windows
from . import openvino_graph
from .openvino import load, pack

logger = logging.getLogger(__name__)

PHOTOGRAPH = Path(__file__).with_name("calibration.jpg")
"""What ranges are taken from where the caller names no images.

A normal left eye, by Mikael Häggström, 2014 (doi:10.15347/wjm/2014.008), in the public domain
(CC0), reduced to 1000 x 1000 pixels.
"""

_RECIPE = "1"  # another one: models in the cache were made in another way
_PIXELS, _FEWEST = 2**19, 8  # of all windows together; windows

Windows = list[NDArray[np.uint8]]


def quantized(
    network: UNet,
    spec: ModelSpec,
    calibration: Sequence[ImageLike] | None,
    max_pixels: int,
) -> bytes:
    """The network in 8 bits, from the cache, or made now.

    Parameters
    ----------
    network : UNet
        Folded, float32, on the CPU.
    spec : ModelSpec
        For the windows and the scale of the calibration images.
    calibration : sequence of images or None
        Photographs such as the model will see; the ranges of its maps are taken from them.
        None: the photograph in the package.
    max_pixels : int
        As for :func:`vesselseg.load_model`.

    Returns
    -------
    bytes
        For :func:`vesselseg.backends.openvino.unpack`.

    Raises
    ------
    MissingExtraError
        If NNCF is needed and not installed.
    OptionError
        If there are no calibration images, or no process of Python can be started.
    ImageError, FileNotFoundError
        If one is no image that is accepted, or does not exist.
    """
    openvino = load()
    seen = calibration_windows(calibration, spec, max_pixels)
    parts: list[Any] = [_RECIPE, openvino.__version__, spec.mean, spec.std]
    parts += [(name, value.numpy()) for name, value in network.state_dict().items()]
    key = _digest([*parts, *seen])

    def make() -> bytes:
        return _quantize(openvino_graph.build(openvino, network, spec), seen)

    return cache.made(spec, key, "int8", make)


def calibration_windows(
    images: Sequence[ImageLike] | None, spec: ModelSpec, max_pixels: int
) -> Windows:
    """Windows as the network sees them, (h, w, 3) uint8, evenly from all images."""
    if isinstance(images, (str, bytes, os.PathLike)):
        raise OptionError(f"calibration takes several images; for one, [{images!r}].")
    images = [PHOTOGRAPH] if images is None else list(images)
    if not images:
        raise OptionError(
            "calibration has no images. Give some photographs such as the model will see, or "
            "leave it out for the one in the package."
        )
    multiple = 2 ** (spec.depth - 1)
    rule = preprocess.check_scale(None, spec)
    share = math.ceil(max(_FEWEST, _PIXELS // spec.crop**2) / len(images))
    chosen: Windows = []
    for image in images:
        rgb = to_rgb(image, max_pixels)
        scaled = preprocess.to_network(rgb, fov.find(rgb), rule, spec, max_pixels)
        height, width = scaled.shape[:2]
        there = windows(height, width, spec.crop, spec.stride)
        for place in np.linspace(0, len(there) - 1, min(share, len(there))).round().astype(int):
            window = there[place]
            tile = scaled[window.top : window.bottom, window.left : window.right]
            fill = [(0, round_up(side, multiple) - side) for side in tile.shape[:2]]
            chosen.append(np.pad(tile, [*fill, (0, 0)], mode="edge"))
    return chosen


def _quantize(model: Any, seen: Windows) -> bytes:
    """A model of OpenVINO in 8 bits, packed."""
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtraError(
            "precision='int8' needs nncf, which is not installed. Install it: "
            'pip install "vesselseg[openvino]".'
        )
    if not sys.executable or getattr(sys, "frozen", False):
        raise OptionError(
            "precision='int8' is prepared in a process of Python, which this program cannot "
            "start. Load the model once with Python on this machine, with the same calibration; "
            "the result is kept in the cache folder."
        )
    logger.info("Quantising a network for OpenVINO: half a minute, once.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load().save_model(model, folder / "float.xml", compress_to_fp16=False)
        np.savez(folder / "windows.npz", *seen)
        finished = subprocess.run(
            [sys.executable, "-m", f"{__package__}.openvino_quantize", name],
            cwd=folder,  # where no file is taken for a module
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if finished.returncode:
            said = finished.stderr.strip().rpartition("\n")[2] or f"code {finished.returncode}"
            logger.debug("%s", finished.stderr)
            raise ResourceError(
                f"The network could not be quantised: {said}. There may be too little memory; "
                f"precision='bfloat16' or 'float32' needs no quantising."
            )
        return pack((folder / "int8.xml").read_bytes(), (folder / "int8.bin").read_bytes())


def _digest(parts: Iterable[Any]) -> str:
    """SHA-256 of settings, weights and windows."""
    digest = hashlib.sha256()
    for part in parts:
        name, values = part if isinstance(part, tuple) and len(part) == 2 else ("", part)
        if isinstance(values, np.ndarray):
            digest.update(repr((name, values.shape, values.dtype.str)).encode())
            digest.update(np.ascontiguousarray(values).data)
        else:
            digest.update(repr(part).encode())
    return digest.hexdigest()
