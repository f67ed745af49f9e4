"""``vesselseg models``, ``download``, ``import``, ``cache`` and ``export``."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DownloadError, OptionError, how_to_install
from . import arguments

if TYPE_CHECKING:
    from ..spec import ModelSpec
    from ..unet import UNet

_EXPORT_DESCRIPTION = """\
Write a model as an ONNX file, which runs without Python or PyTorch.

  image    uint8 RGB, 0 to 255, (N, 3, H, W); normalisation is part of the network
  logits   float32 (N, 2, H, W), background and vessel

H and W must be divisible by the "size_divisor" in the file's metadata, which also holds the size
and stride of the windows, the scale, the licence, the digest of the weights and the whole model
spec as JSON. examples/onnx_sliding.py shows how windows become a mask."""

_EXPORT_EPILOG = f"""\
examples:
  vesselseg export -o vessels.onnx
  vesselseg export unet_s5-d16_drive -o drive.onnx
  vesselseg eye.jpg --model vessels.onnx -o vessels.png
  vesselseg export --precision int8 --calibration photographs/*.jpg -o net-int8.onnx
  vesselseg eye.jpg --model net-int8.onnx --backend openvino -o vessels.png

Needs the extra onnx. {how_to_install("onnx")}"""


def add_parsers(commands: Any) -> None:
    """Add the parsers of this module's commands."""
    parser = commands.add_parser(
        "models",
        help="list the models that can be loaded by name",
        description="List the models that can be loaded by name. Dice is the published score in "
        "percent; windows are given as side / stride in pixels.",
    )
    add = parser.add_argument
    add("--json", action="store_true", help="write everything known as a JSON list (default: no)")
    parser.set_defaults(run=_list_models)

    parser = commands.add_parser(
        "download",
        help="download weights into the cache, for use without a network",
        description="Download weights into the cache, and print the path and SHA-256 of each. "
        "Files that are there already are not downloaded again.",
    )
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    add("names", metavar="NAME", nargs="*", default=[], help="models to download")
    add("--all", action="store_true", help="download every published model (default: no)")
    parser.add_argument("--force", action="store_true", help="download again; a file that differs "
        "from the one there is rejected (default: no)")  # fmt: skip
    parser.set_defaults(run=_download)

    parser = commands.add_parser(
        "import",
        help="copy a weights file that you already have into the cache",
        description="Verify a weights file like a download and copy it into the cache.",
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="the weights file")
    add("--name", required=True, help="the model that it belongs to (required)")
    add("--force", action="store_true", help="import it although its SHA-256 differs from the "
        "published digits, and mark the model as unverified (default: no)")  # fmt: skip
    parser.set_defaults(run=_import_file)

    parser = commands.add_parser(
        "cache",
        help="show or clear the folder of downloaded weights",
        description="Show where the downloaded weights are and how large, or remove them.",
    )
    parser.add_argument("--clear", metavar="NAME", nargs="*", help="remove the files of these "
        "models, or of all if none is named (default: nothing)")  # fmt: skip
    parser.set_defaults(run=_show_cache)

    parser = commands.add_parser(
        "export",
        help="write a model as an ONNX file, for other languages and runtimes",
        description=_EXPORT_DESCRIPTION,
        epilog=_EXPORT_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model", nargs="?", metavar="MODEL", help="a name from `vesselseg models`, or a file saved "
        "by vesselseg (default: the embedded model)")  # fmt: skip
    add("-o", "--out", metavar="FILE",
        help="file to write, ending in .onnx (default: none, required)")  # fmt: skip
    add("--weights", metavar="FILE", help="local weights file to read instead of the model's own "
        "(default: the package's, the cache's, or a download)")  # fmt: skip
    add("--precision", choices=("float32", "int8"), default="float32",
        help="int8 is for OpenVINO: the file is a quarter as large and runs faster; needs the "
        "extra vesselseg[openvino] (default: %(default)s)")  # fmt: skip
    add("--calibration", nargs="+", metavar="FILE",
        help="for int8: a few representative photographs to calibrate it with (default: one "
        "that is part of the package)")  # fmt: skip
    arguments.add_bits(parser)
    parser.set_defaults(run=_export)


def _list_models(options: argparse.Namespace) -> int:
    """Print the models."""
    from ..registry import list_models

    models = [_describe(spec) for spec in list_models()]
    if options.json:
        print(json.dumps(models, indent=1))
        return 0
    rows = [("model", "data set", "Dice", "windows", "size", "on this machine")]
    for model in models:
        size = "-"
        if model["size"]:
            size = f"{model['size'] / 1e6:.1f} MB"
        elif (model["width"], model["depth"]) == (64, 5):
            size = "~116 MB"  # of float32 weights and an auxiliary head, whichever head they have
        dice = f"{model['dice']:.2f}" if model["dice"] else "-"
        windows = f"{model['crop']:3} / {model['stride']}"
        rows.append((model["name"], model["dataset"], dice, windows, size, model["state"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        print("  ".join(cell.ljust(width) for cell, width in cells).rstrip())
    return 0


def _describe(spec: ModelSpec) -> dict[str, Any]:
    """Everything known of a model, as plain values."""
    from .. import cache

    cached = cache.find_cached(spec, _load_network)
    known: dict[str, Any] = {"state": "not cached", "path": None, "size": None, "sha256": None}
    if cached:
        state = "part of the package" if cache.packaged_path(spec) else "cached"
        if not spec.matches(cached.sha256):
            state += ", unverified"
        size = cached.path.stat().st_size
        known = {"state": state, "path": str(cached.path), "size": size, "sha256": cached.sha256}
    return asdict(spec) | known


def _load_network(path: Path, spec: ModelSpec) -> UNet:
    """Verify a file for the cache; PyTorch is imported only if that is needed."""
    from .. import weights

    return weights.load_network(path, spec)


def _download(options: argparse.Namespace) -> int:
    """Download models; one that fails does not stop the others."""
    from .. import cache
    from ..registry import find_spec, list_models

    logging.getLogger("vesselseg.cache").setLevel(logging.INFO)  # says what it waits for
    code = 0
    for spec in list_models() if options.all else [find_spec(name) for name in options.names]:
        try:
            file = cache.obtain(spec, _load_network, force=options.force)
            print(f"{file.path}  SHA-256 {file.sha256}")
        except DownloadError as error:
            print(f"vesselseg: {error}", file=sys.stderr)
            code = 1
    return code


def _import_file(options: argparse.Namespace) -> int:
    """Copy a file into the cache."""
    from .. import cache
    from ..registry import find_spec

    spec = find_spec(options.name)
    file = cache.import_file(options.file, spec, _load_network, force=options.force)
    print(f"{file.path}  SHA-256 {file.sha256}")
    return 0


def _show_cache(options: argparse.Namespace) -> int:
    """Show or clear the cache folder."""
    from .. import cache
    from ..registry import find_spec

    folder = cache.cache_folder()
    if options.clear is not None:
        specs: list[ModelSpec | None] = [find_spec(name) for name in options.clear]
        removed = [path for spec in specs or [None] for path in cache.clear(spec)]
        print(f"{len(removed)} files removed from {folder}")
        return 0
    sizes = {path: path.stat().st_size for path in cache.contents()}
    files = {path: size for path, size in sizes.items() if path.suffix != ".json"}
    print(f"{folder}: {len(files)} files, {sum(sizes.values()) / 1e6:.1f} MB")
    for path, size in files.items():
        note = ", part of a download that can be resumed" if path.suffix == ".part" else ""
        print(f"  {path.name}: {size / 1e6:.1f} MB{note}")
    return 0


def _export(options: argparse.Namespace) -> int:
    """Write an ONNX file."""
    from ..api import load_model

    if not options.out or Path(options.out).suffix.lower() != ".onnx":
        raise OptionError("Name the file to write, ending in .onnx: -o FILE.onnx.")
    model = load_model(options.model, weights=options.weights, device="cpu")
    model.export(
        options.out,
        precision=options.precision,
        calibration=options.calibration,
        bits=options.bits,
    )
    size = Path(options.out).stat().st_size
    print(f"{options.out}: {model.spec.name}, {size / 1e6:.1f} MB")
    return 0
