"""One photograph, one line."""

from pathlib import Path

import vesselseg

PHOTOGRAPH = Path(__file__).with_name("fundus.jpg")

vesselseg.segment(PHOTOGRAPH).save("vessels.png")
