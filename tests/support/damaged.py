"""Damaged image files of every format that is read, drawn by a seed."""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image

from vesselseg import formats


def whole_files() -> dict[str, bytes]:
    """A small file of each format in the table that this Pillow writes, and variants."""
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {}
    variants = (
        *((name, picture, {}) for name in formats.READABLE),
        ("JPEG", picture, {"progressive": True, "exif": exif, "comment": b"text"}),
        ("PNG", picture.quantize(16), {"transparency": 3, "exif": exif}),
        ("PNG", Image.fromarray(noise[..., 0].astype(np.uint16) * 257), {}),
        ("TIFF", picture, {"compression": "tiff_lzw"}),
        ("TIFF", picture, {"compression": "jpeg"}),
        ("GIF", picture, {"save_all": True, "append_images": [picture.rotate(180)]}),
        ("WEBP", picture, {"lossless": True, "exif": exif}),
    )
    for name, image, options in variants:
        if name in Image.SAVE or not Image.init():
            stream = io.BytesIO()
            image.save(stream, name, **options)
            files[f"{name} {len(files)}"] = stream.getvalue()
    return files


def damaged_files(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Files with changed bits, fields at their extremes, and parts cut, zeroed or doubled."""
    random = np.random.default_rng(seed)
    files = list(whole_files().items())
    for number in range(count):
        name, content = files[number % len(files)]
        changed = bytearray(content)
        for _ in range(random.integers(1, 4)):
            # Half of all damage is in the header, where it decides most.
            reach = len(changed) if random.random() < 0.5 else min(len(changed), 200)
            place = int(random.integers(0, max(reach, 1)))
            length = int(random.integers(1, 40))
            match random.integers(0, 5):
                case 0:
                    changed[place : place + 1] = bytes([int(random.integers(0, 256))])
                case 1:
                    extreme = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\xff\xff")
                    value = extreme[int(random.integers(0, 4))]
                    changed[place : place + len(value)] = value
                case 2:
                    del changed[place:]
                case 3:
                    changed[place : place + length] = bytes(len(changed[place : place + length]))
                case _:
                    changed[place:place] = changed[place : place + length]
        yield f"{name}, {number}", bytes(changed)
