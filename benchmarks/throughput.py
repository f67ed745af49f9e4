"""The embedded model at work: images per second of a folder, seconds per megapixel."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from cases import photograph
from PIL import Image
from speed import interleave
from table import Column

from vesselseg import Segmenter, load_model, segment_folder
from vesselseg.backends.pytorch import native_precisions
from vesselseg.registry import EMBEDDED
from vesselseg.sliding import windows

IMAGES, SIDE = 100, 256  # JPEG files of that side: at native scale one window each
SIDES = (256, 512, 1024, 2048, 4096)
COLUMNS = [
    Column("way", "way"),
    Column("precision", "precision"),
    Column("images per second", "rate", "{:.1f}"),
]
SCALING_COLUMNS = [
    Column("image", "image"),
    Column("windows", "windows"),
    Column("seconds", "seconds", "{:.2f}"),
    Column("seconds per megapixel", "per_megapixel", "{:.2f}"),
]


def measure(repeats: int, count: int = IMAGES) -> list[dict[str, Any]]:
    """A folder of small files, read from the disk each time."""
    native = native_precisions(torch.device("cpu"))
    runs: dict[tuple[str, str], Callable[[], None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = write_photographs(Path(folder, "in"), count)
        for precision in ("float32", "bfloat16"):
            if precision in native:
                model = load_model(device="cpu", precision=precision)
                out = Path(folder, precision)
                runs["one by one", precision] = partial(one_by_one, model, files)
                runs["segment_many", precision] = partial(many, model, files)
                runs["batch, masks written", precision] = partial(batch, model, files, out)
        interleave(runs, 1)  # does not count
        times = interleave(runs, repeats)
    return [
        {"way": way, "precision": precision, "images": count, "side": SIDE,
         "rate": count / statistics.median(each), "times": each}
        for (way, precision), each in times.items()
    ]  # fmt: skip


def write_photographs(folder: Path, count: int) -> list[Path]:
    """Write so many small JPEG files."""
    folder.mkdir()
    picture = Image.fromarray(photograph((SIDE, SIDE)))
    files = [folder / f"{number:04}.jpg" for number in range(count)]
    for file in files:
        picture.save(file, quality=90)
    return files


def one_by_one(model: Segmenter, files: Sequence[Path]) -> None:
    for file in files:
        model(file, scale="native")


def many(model: Segmenter, files: Sequence[Path]) -> None:
    for _ in model.segment_many(files, scale="native"):
        pass


def batch(model: Segmenter, files: Sequence[Path], out: Path) -> None:
    """What ``vesselseg segment`` does once its model is loaded."""
    summary = segment_folder(files[0].parent, out, model=model, scale="native", progress=False)
    assert summary.segmented == len(files)


def scaling(repeats: int, sides: Sequence[int] = SIDES) -> list[dict[str, Any]]:
    """Square images at native scale, in float32."""
    model = load_model(device="cpu")
    rows = []
    for side in sides:
        image = photograph((side, side))
        model(image, scale="native")  # packs weights for this size; does not count
        times = []
        for _ in range(repeats):
            begun = time.perf_counter()
            model(image, scale="native")
            times.append(time.perf_counter() - begun)
        seconds = statistics.median(times)
        rows.append({"image": (side, side), "times": times, "seconds": seconds,
                     "windows": len(windows(side, side, EMBEDDED.crop, EMBEDDED.stride)),
                     "per_megapixel": seconds / side**2 * 1e6})  # fmt: skip
    return rows
