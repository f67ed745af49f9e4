"""``vesselseg export``: a model as a file for other languages and runtimes."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import OptionError

_DESCRIPTION = """\
Write a model as an ONNX file, which runs without Python or PyTorch.

  image    uint8 RGB, 0 to 255, (N, 3, H, W); normalisation is part of the network
  logits   float32 (N, 2, H, W), background and vessel

N, H and W are free; H and W have to be multiples of the file's "multiple". The file's metadata
has the size and stride of the windows, the scale, the licence, the digest of the weights and the
whole record as JSON. examples/onnx_sliding.py shows how windows become a mask."""

_EPILOG = """\
examples:
  vesselseg export -o vessels.onnx
  vesselseg export unet_s5-d16_drive -o drive.onnx
  vesselseg eye.jpg --model vessels.onnx -o vessels.png

Needs the extra: pip install "vesselseg[onnx]"."""


def add_parsers(commands: Any) -> None:
    """Add the parser of ``export``."""
    parser = commands.add_parser(
        "export",
        help="write a model as an ONNX file, for other languages and runtimes",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a name from `vesselseg models`, or a file saved "
        "by vesselseg (default: the model that is part of vesselseg)")  # fmt: skip
    add("-o", "--out", metavar="FILE", help="the file to write, ending in .onnx (default: none, it "
        "has to be given)")  # fmt: skip
    add("--weights", metavar="FILE", help="local file to read in place of the model's own "
        "(default: the package's, the cache's, or downloaded)")  # fmt: skip
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from ..api import load_model

    if not options.out or Path(options.out).suffix.lower() != ".onnx":
        raise OptionError("Say where the model is to be written: a file ending in .onnx, -o FILE.")
    model = load_model(options.model, weights=options.weights, device="cpu")
    model.export(options.out)
    size = Path(options.out).stat().st_size
    print(f"{options.out}: {model.spec.name}, {size / 1e6:.1f} MB")
    return 0
