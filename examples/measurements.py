"""The files that most tools for measuring vessels need: the mask and the field of view.

Both are PNG files of the photograph's own size with 0 and 255 in one channel. Widths, tortuosity
and fractal dimension are for such a tool; this script only prints the share of vessel.
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

print(f"vessel density inside the field of view: {result.vessel_fraction():.3f}")

with Image.open(OUTPUT / "fundus.png") as image:  # the provenance is in the file
    provenance = json.loads(image.text["vesselseg"])
print(f"computed by {provenance['model']} with vesselseg {provenance['vesselseg']}")
