"""``vesselseg models``, ``download``, ``import``, ``cache`` and ``export``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..choices import canonical_precision
from ..errors import DownloadError, OptionError, install_command
from . import arguments

if TYPE_CHECKING:
    from ..spec import ModelSpec
    from ..unet import UNet

_EXPORT_DESCRIPTION = """\
Write a model as an ONNX file, which runs without Python or PyTorch.

  image    uint8 RGB, 0 to 255, (N, 3, H, W); the network normalises it
  logits   float32 (N, 2, H, W), background and vessel

H and W must be divisible by the "size_divisor" in the file's metadata, which also holds the size
and stride of the windows, the scale, the licence, the digest of the weights and the whole model
spec as JSON. examples/onnx_sliding.py shows how windows become a mask."""

_EXPORT_EPILOG = f"""\
examples:
  vesselseg export -o vessels.onnx
  vesselseg export unet_s5-d16_drive -o drive.onnx
  vesselseg eye.jpg --model vessels.onnx -o vessels.png
  vesselseg export --precision int8 --calibration eyes/*.jpg -o net-int8.onnx
  vesselseg eye.jpg --model net-int8.onnx --backend openvino -o vessels.png

needs an extra:
  {install_command("onnx")}"""


def add_parsers(commands: Any) -> None:
    """Add the parsers of this module's commands."""
    parser = commands.add_parser(
        "models",
        help="list the models that can be loaded by name",
        usage="vesselseg models [--json]",
        description="List the models that can be loaded by name. Dice is the published score in "
        "percent; windows are given as side / stride in pixels. A file in the cache that is not "
        "the model's is rejected.",
        epilog="examples:\n  vesselseg models\n  vesselseg models --json",
    )
    add = parser.add_argument
    add("--json", action="store_true", help="write everything known as a JSON list (default: no)")
    parser.set_defaults(run=_list_models)

    parser = commands.add_parser(
        "download",
        help="download weights into the cache, for use without a network",
        usage="vesselseg download NAME... | --all [--force]",
        description="Download weights into the cache, and print the path and SHA-256 of each. "
        "Files that are there already are not downloaded again.",
        epilog="examples:\n  vesselseg download unet_s5-d16_drive\n  vesselseg download --all",
    )
    add = parser.add_mutually_exclusive_group(required=True).add_argument
    names = add("names", metavar="NAME", nargs="*", default=[], help="models to download")
    arguments.complete(names, arguments.model_names)
    add("--all", action="store_true", help="download every published model (default: no)")
    parser.add_argument("--force", action="store_true", help="download again; a file that differs "
        "from the one there is rejected (default: no)")  # fmt: skip
    parser.set_defaults(run=_download)

    parser = commands.add_parser(
        "import",
        help="copy a weights file that you already have into the cache",
        usage="vesselseg import FILE --name NAME [--force]",
        description="Verify a weights file like a download and copy it into the cache.",
        epilog="examples:\n  vesselseg import drive.pth --name unet_s5-d16_drive",
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="the weights file")
    name = add("--name", required=True, help="the model that it belongs to (required)")
    arguments.complete(name, arguments.model_names)
    add("--force", action="store_true", help="import it although its SHA-256 differs from the "
        "published digits, and mark the model as unverified (default: no)")  # fmt: skip
    parser.set_defaults(run=_import_file)

    parser = commands.add_parser(
        "cache",
        help="show or clear the folder of downloaded weights",
        usage="vesselseg cache [--clear [NAME...]]",
        description="Show where the downloaded weights are and how large, or remove them.",
        epilog="examples:\n  vesselseg cache\n  vesselseg cache --clear unet_s5-d16_drive",
    )
    clear = parser.add_argument("--clear", metavar="NAME", nargs="*", help="remove the files of "
        "these models, or of all if none is named (default: nothing)")  # fmt: skip
    arguments.complete(clear, arguments.model_names)
    parser.set_defaults(run=_show_cache)

    parser = commands.add_parser(
        "export",
        help="write a model as an ONNX file, for other languages and runtimes",
        usage="vesselseg export [MODEL] -o OUTPUT [options]",
        description=_EXPORT_DESCRIPTION,
        epilog=_EXPORT_EPILOG,
    )
    add = parser.add_argument
    model = add("model", nargs="?", metavar="MODEL", help="a name from `vesselseg models`, or a "
        "file saved by vesselseg (default: the embedded model)")  # fmt: skip
    arguments.complete(model, arguments.model_names)
    add("-o", "--output", metavar="OUTPUT", required=True,
        help="file to write, ending in .onnx (required)")  # fmt: skip
    arguments.add_weights(parser)
    add("--precision", type=canonical_precision, choices=("float32", "int8"), default="float32",
        help="int8 is for OpenVINO: the file is a quarter as large and runs faster; needs the "
        "extra openvino (default: %(default)s)")  # fmt: skip
    add("--calibration", nargs="+", metavar="FILE",
        help="for int8: a few representative photographs to calibrate it with (default: one "
        "that is part of the package)")  # fmt: skip
    arguments.add_bits(parser)
    parser.set_defaults(run=_export)


def _list_models(options: argparse.Namespace) -> None:
    from ..registry import list_models

    models = [_describe(spec) for spec in list_models()]
    if options.json:
        print(json.dumps(models, indent=1))
        return
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


def _describe(spec: ModelSpec) -> dict[str, Any]:
    """Everything known of a model, as plain values."""
    from .. import cache

    cached = cache.find_cached(spec, _load_network)
    known: dict[str, Any] = {"state": "not cached", "path": None, "size": None, "sha256": None}
    if any(path.suffix not in (".json", ".part") for path in cache.contents(spec)):
        known["state"] = "rejected"
    if cached:
        state = "part of the package" if cache.packaged_path(spec) else "cached"
        if not spec.matches(cached.sha256):
            state += ", unverified"
        size = cached.path.stat().st_size
        known = {"state": state, "path": str(cached.path), "size": size, "sha256": cached.sha256}
    return asdict(spec) | known


def describe_cache() -> dict[str, Any]:
    """The folder of downloaded weights, how many files of ours it holds, and how large they are."""
    from .. import cache

    try:
        folder, paths = cache.cache_folder(), cache.contents()
    except OSError as error:
        return {"folder": str(error), "files": 0, "megabytes": 0.0}
    return {
        "folder": str(folder),
        "files": sum(path.suffix != ".json" for path in paths),
        "megabytes": round(sum(path.stat().st_size for path in paths) / 1e6, 1),
    }


def _load_network(path: Path, spec: ModelSpec) -> UNet:
    """Verify a file for the cache; PyTorch is imported only if that is needed."""
    from .. import weights

    return weights.load_network(path, spec)


def _download(options: argparse.Namespace) -> int:
    """Download models; one that fails does not stop the others."""
    from .. import cache
    from ..registry import find_spec, list_models

    code = 0
    for spec in list_models() if options.all else [find_spec(name) for name in options.names]:
        try:
            file = cache.obtain(spec, _load_network, progress=options.progress, force=options.force)
            print(f"{file.path}  SHA-256 {file.sha256}")
        except DownloadError as error:
            print(f"vesselseg: {error}", file=sys.stderr)
            code = 1
    return code


def _import_file(options: argparse.Namespace) -> None:
    from .. import cache
    from ..registry import find_spec

    spec = find_spec(options.name)
    file = cache.import_file(options.file, spec, _load_network, force=options.force)
    print(f"{file.path}  SHA-256 {file.sha256}")


def _show_cache(options: argparse.Namespace) -> None:
    from .. import cache
    from ..registry import find_spec, list_models

    folder = cache.cache_folder()
    if options.clear is not None:
        specs: list[ModelSpec | None] = [find_spec(name) for name in options.clear]
        removed = [path for spec in specs or [None] for path in cache.clear(spec)]
        print(f"{len(removed)} removed from {folder}")
        return
    print(f"{folder}: {describe_cache()['megabytes']:.1f} MB")
    rejected = [spec for spec in list_models() if _describe(spec)["state"] == "rejected"]
    notes = {path: ", rejected" for spec in rejected for path in cache.contents(spec)}
    for path in cache.contents():
        if path.suffix == ".json":
            continue
        note = notes.get(path, "")
        if path.suffix == ".part":
            note = ", part of a download that can be resumed"
        print(f"  {path.name}: {path.stat().st_size / 1e6:.1f} MB{note}")


def _export(options: argparse.Namespace) -> None:
    from ..api import load_model

    if Path(options.output).suffix.lower() != ".onnx":
        raise OptionError("Name the file to write, ending in .onnx: -o FILE.onnx.")
    model = load_model(
        options.model, weights=options.weights, device="cpu", progress=options.progress
    )
    model.export(
        options.output,
        precision=options.precision,
        calibration=options.calibration,
        bits=options.bits,
    )
    size = Path(options.output).stat().st_size
    print(f"{options.output}: {model.spec.name}, {size / 1e6:.1f} MB")
