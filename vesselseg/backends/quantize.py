"""Quantise a network to int8 for OpenVINO with NNCF, and keep the result in the cache folder.

NNCF prints, draws random numbers and changes the logging of its process, so it runs in one of
its own: ``python -m vesselseg.backends.quantize FOLDER`` reads float.xml, float.bin and
windows.npz in the folder, and writes int8.xml and int8.bin.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .. import cache
from ..errors import MissingExtraError, OptionError, ResourceError, require
from ..fov import find_field_of_view
from ..images import RGB, ImageLike, to_rgb
from ..preprocess import check_scale, preprocess
from ..sliding import round_up, windows
from ..spec import ModelSpec
from ..unet import UNet
from .openvino import load_openvino, read_network

logger = logging.getLogger(__name__)

PHOTOGRAPH = Path(__file__).parents[1] / "embedded" / "fundus.jpg"
"""The photograph for calibration if the caller gives none.

A normal left eye, by Mikael Häggström, 2014 (doi:10.15347/wjm/2014.008), in the public domain
(CC0), reduced to 1000 x 1000 pixels.
"""

# These convolutions stay float: the first see the photograph's 256 levels, the last decide.
FLOAT_LAYERS = r"(encoder\.0|head)\..*"
RECIPE = 1  # to be raised when networks in the cache are no longer what this module would make
MIN_PIXELS, MIN_WINDOWS = 2**19, 8  # of all calibration windows together


def quantize(
    network: UNet,
    spec: ModelSpec,
    calibration: Sequence[ImageLike] | None,
    max_pixels: int,
    bits: int | None = None,
) -> bytes:
    """Return the network in int8, for `OpenVinoBackend`; from the cache folder or quantised now.

    The ranges of the maps are taken from `calibration`, representative photographs of at most
    `max_pixels`, or from the photograph in the package if it is None. `bits` is how many bits
    their 16-bit values use, if not all.
    """
    selected = calibration_windows(calibration, spec, max_pixels, bits)
    recipe = f"{RECIPE} {load_openvino().__version__} {spec.mean} {spec.std}"
    digest = hashlib.sha256(recipe.encode())
    for values in [value.numpy() for value in network.state_dict().values()] + selected:
        digest.update(f"{values.shape} {values.dtype}".encode())
        digest.update(np.ascontiguousarray(values).data)
    key = digest.hexdigest()
    return cache.derived(spec, key, "int8", lambda: quantize_now(network, spec, selected))


def calibration_windows(
    images: Sequence[ImageLike] | None,
    spec: ModelSpec,
    max_pixels: int,
    bits: int | None = None,
) -> list[RGB]:
    """Windows (h, w, 3) in the network's scale and colours, spread evenly over all images."""
    if isinstance(images, (str, bytes, os.PathLike)):
        raise OptionError(f"calibration takes several images; for one, pass [{images!r}].")
    images = [PHOTOGRAPH] if images is None else list(images)
    if not images:
        raise OptionError(
            "calibration has no images. Pass a few representative photographs, or leave it out to "
            "use the one in the package."
        )
    rule = check_scale(None, spec)
    per_image = math.ceil(max(MIN_WINDOWS, MIN_PIXELS // spec.crop**2) / len(images))
    selected = []
    for image in images:
        rgb = to_rgb(image, max_pixels, bits)
        scaled = preprocess(rgb, find_field_of_view(rgb), rule, spec, max_pixels)
        height, width = scaled.shape[:2]
        candidates = windows(height, width, spec.crop, spec.stride)
        count = min(per_image, len(candidates))
        for place in np.linspace(0, len(candidates) - 1, count).round().astype(int):
            top, bottom, left, right = candidates[place]
            pixels = scaled[top:bottom, left:right]
            padding = [(0, round_up(side, spec.size_divisor) - side) for side in pixels.shape[:2]]
            selected.append(np.pad(pixels, [*padding, (0, 0)], mode="edge"))
    return selected


def quantize_now(network: UNet, spec: ModelSpec, calibration: list[RGB]) -> bytes:
    """Quantise a network in another process."""
    if importlib.util.find_spec("nncf") is None:
        raise MissingExtraError(
            "precision='int8' needs nncf, which is not installed. Install it: "
            'pip install "vesselseg[openvino]".'
        )
    if not sys.executable or getattr(sys, "frozen", False):
        raise OptionError(
            "precision='int8' needs a Python process to prepare it, which this program cannot "
            "start. Load the model once with Python on this machine, with the same calibration; "
            "the result is kept in the cache folder."
        )
    logger.info("Quantising the network for OpenVINO. This takes half a minute, once.")
    model = read_network(network, spec)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        load_openvino().save_model(model, folder / "float.xml", compress_to_fp16=False)
        np.savez(folder / "windows.npz", *calibration)
        finished = subprocess.run(
            [sys.executable, "-m", __name__, name],
            cwd=folder,  # has no files that could be imported by mistake
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if finished.returncode:
            logger.debug("%s", finished.stderr)
            reason = finished.stderr.strip().rpartition("\n")[2] or f"code {finished.returncode}"
            raise ResourceError(
                f"The network could not be quantised: {reason}. There may be too little memory; "
                f"precision='bfloat16' or 'float32' needs no quantising."
            )
        xml = (folder / "int8.xml").read_bytes()
        return len(xml).to_bytes(8, "little") + xml + (folder / "int8.bin").read_bytes()


def run_nncf(folder: Path) -> None:
    """Quantise the model in `folder`; see the docstring of this module."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    openvino, nncf = require("openvino", "openvino"), require("nncf", "openvino")
    with np.load(folder / "windows.npz") as arrays:
        data = [arrays[name][None] for name in arrays.files]
    model = nncf.quantize(
        openvino.Core().read_model(folder / "float.xml"),
        nncf.Dataset(data),
        subset_size=len(data),
        preset=nncf.QuantizationPreset.MIXED,
        # Layers are corrected one by one, each after those before it. The fast way makes masks
        # wider or thinner and costs half a point of Dice.
        fast_bias_correction=False,
        ignored_scope=nncf.IgnoredScope(patterns=[FLOAT_LAYERS]),
    )
    openvino.save_model(model, folder / "int8.xml", compress_to_fp16=False)


if __name__ == "__main__":
    run_nncf(Path(sys.argv[1]))
