"""Files for tools that measure vessels: the mask and the field of view, as most of them take.

Both are PNGs of the photograph's own size with 0 and 255 in one channel. Widths, tortuosity or
fractal dimension are such a tool's work; here only the share of vessel in the field of view.
"""

import json
from pathlib import Path

from PIL import Image

import vesselseg

PHOTOGRAPH = Path(__file__).with_name("fundus.jpg")
OUTPUT = Path("measurements")

OUTPUT.mkdir(exist_ok=True)
result = vesselseg.segment(PHOTOGRAPH)
result.save(OUTPUT / "fundus.png")
result.save(OUTPUT / "fundus_fov.png", kind="fov")

density = result.mask[result.field_of_view].mean()
print(f"vessel density inside the field of view: {density:.3f}")

with Image.open(OUTPUT / "fundus.png") as image:  # how it came about travels with the file
    provenance = json.loads(image.text["vesselseg"])
print(f"made by {provenance['model']} of vesselseg {provenance['vesselseg']}")
