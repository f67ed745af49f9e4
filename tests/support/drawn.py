"""Drawn photographs of retinas, and data sets of them named and laid out as the official ones."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

HEIGHT, WIDTH = 40, 44


def disc() -> NDArray[np.bool_]:
    rows, columns = np.indices((HEIGHT, WIDTH))
    return np.asarray(np.hypot(rows - HEIGHT / 2 + 0.5, columns - WIDTH / 2 + 0.5) < 19)


def vessels(seed: int) -> NDArray[np.bool_]:
    """Two crossing vessels, elsewhere for each seed."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[8 + seed % 20 : 11 + seed % 20] = True
    mask[:, 10 + seed % 23 : 12 + seed % 23] = True
    return mask & disc()


def photograph(seed: int) -> NDArray[np.uint8]:
    """A red disc on black, vessels darker."""
    noise = np.random.default_rng(seed).integers(0, 20, (HEIGHT, WIDTH, 3))
    pixels = np.where(disc()[..., None], np.array([170, 90, 40]) + noise, 0)
    pixels[vessels(seed)] //= 2
    return pixels.astype(np.uint8)


def write(path: Path, pixels: NDArray[np.uint8] | NDArray[np.bool_]) -> None:
    """Write a picture in the format of its ending, gzipped if it ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    kinds = {".jpg": "JPEG", ".tif": "TIFF", ".gif": "GIF", ".ppm": "PPM", ".png": "PNG"}
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, format=kinds[ending])
    content = stream.getvalue()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def drive(folder: Path) -> Path:
    """training/ and test/, each with images, 1st_manual and mask; 2nd_manual of the test."""
    for number in range(1, 41):
        half = "test" if number <= 20 else "training"
        base, stem = folder / half, f"{number:02}_{half}"
        write(base / "images" / f"{stem}.tif", photograph(number))
        write(base / "1st_manual" / f"{number:02}_manual1.gif", vessels(number))
        write(base / "mask" / f"{stem}_mask.gif", disc())
        if half == "test":
            write(base / "2nd_manual" / f"{number:02}_manual2.gif", vessels(number + 1))
    return folder


def stare(folder: Path, *, gzipped: bool = True) -> Path:
    """Three archives unpacked into a folder each; one photograph more than there are labels."""
    names = "0001 0002 0003 0004 0005 0044 0077 0081 0082 0139 0162 0163 0235 0236 0239 0240 0255"
    end = ".ppm.gz" if gzipped else ".ppm"
    for seed, number in enumerate([*names.split(), "0291", "0319", "0324"]):
        write(folder / "stare-images" / f"im{number}{end}", photograph(seed))
        label = np.repeat(vessels(seed)[..., None], 3, axis=2)
        write(folder / "labels-ah" / f"im{number}.ah{end}", label)
        write(folder / "labels-vk" / f"im{number}.vk{end}", np.roll(label, 1, axis=0))
    write(folder / "stare-images" / f"im0400{end}", photograph(99))
    return folder


def chase_db1(folder: Path, *, numbers: range = range(1, 15)) -> Path:
    """Everything in one folder."""
    for number in numbers:
        for seed, eye in enumerate("LR", start=2 * number):
            write(folder / f"Image_{number:02}{eye}.jpg", photograph(seed))
            write(folder / f"Image_{number:02}{eye}_1stHO.png", vessels(seed))
            write(folder / f"Image_{number:02}{eye}_2ndHO.png", vessels(seed + 1))
    return folder


def hrf(folder: Path) -> Path:
    """images/, manual1/ and mask/; .JPG and .jpg, as in the original."""
    for number in range(1, 16):
        for seed, kind in enumerate(("dr", "g", "h"), start=3 * number):
            stem = f"{number:02}_{kind}"
            write(
                folder / "images" / f"{stem}.{'JPG' if kind == 'dr' else 'jpg'}", photograph(seed)
            )
            write(folder / "manual1" / f"{stem}.tif", vessels(seed))
            write(folder / "mask" / f"{stem}_mask.tif", np.repeat(disc()[..., None], 3, axis=2))
    return folder


def pairs(folder: Path, *, names: tuple[str, ...] = ("a", "b", "c")) -> Path:
    """images/ and labels/ with the same stems."""
    for seed, name in enumerate(names):
        write(folder / "images" / f"{name}.png", photograph(seed))
        write(folder / "labels" / f"{name}.png", vessels(seed))
    return folder


def photographs(folder: Path, names: list[str]) -> list[Path]:
    """Write a different photograph under every name below the folder."""
    paths = [folder / name for name in names]
    for seed, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photograph(seed)).save(path)
    return paths


def twelve_bits(grey: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Grey values as a camera of 12 bits has them: 0 to 4095."""
    return np.rint(grey * (4095 / 255)).astype(np.uint16)


def pixels(path: Path) -> NDArray[np.generic]:
    """The pixels in a picture's file."""
    with Image.open(path) as opened:
        return np.asarray(opened)


def tree(folder: Path) -> dict[str, bytes]:
    """All files below a folder, hidden ones too: their place and their bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
