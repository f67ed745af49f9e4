"""A network in 32 bits -> in 8, by NNCF, in a process of its own.

    python -m vesselseg.backends.openvino_quantize FOLDER

reads FOLDER/float.xml and .bin and FOLDER/windows.npz, and writes FOLDER/int8.xml and .bin. NNCF
prints, takes random numbers and changes how the process logs: here it meets nobody.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from . import require
from .openvino import without_telemetry

_FLOAT = ("encoder.0.", "head.")  # what sees the photograph's 256 levels, and what decides


def quantize(folder: Path) -> None:
    """Do what this module's docstring says."""
    import numpy as np

    with without_telemetry():
        openvino: Any = require("openvino", "openvino")
        nncf: Any = require("nncf", "openvino")
        with np.load(folder / "windows.npz") as windows:
            data = [windows[name][None] for name in windows.files]
        model = openvino.Core().read_model(folder / "float.xml")
        names = [node.get_friendly_name() for node in model.get_ops()]
        model = nncf.quantize(
            model,
            nncf.Dataset(data),
            subset_size=len(data),
            preset=nncf.QuantizationPreset.MIXED,
            # Corrected layer by layer, each behind those already corrected: masks become neither
            # wider nor thinner, where the quick way adds half a point of Dice.
            fast_bias_correction=False,
            ignored_scope=nncf.IgnoredScope(names=[x for x in names if x.startswith(_FLOAT)]),
        )
        openvino.save_model(model, folder / "int8.xml", compress_to_fp16=False)


if __name__ == "__main__":
    quantize(Path(sys.argv[1]))
