"""Measure the vessels of a photograph, draw what was measured, and list the longest segments.

Needs the extra measure.
"""

from pathlib import Path

import numpy as np

import vesselseg

PHOTOGRAPH = Path(__file__).with_name("fundus.jpg")

result = vesselseg.segment(PHOTOGRAPH)
measures = result.measure()

for name, value in measures.to_dict().items():
    print(f"{name:20} {value:.5g}")

measures.overlay(crop=(90, 560, 570, 920)).save("measured.png")  # around the optic disc

segments = measures.segments  # pandas.DataFrame(segments) makes a table of it
longest = np.argsort(segments["length_px"])[::-1][:3]
for number in longest:
    length, width = segments["length_px"][number], segments["width_px"][number]
    print(f"segment of {length:.0f} pixels, {width:.1f} wide")
