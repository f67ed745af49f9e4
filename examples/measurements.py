"""Measure the vessels of a photograph, and list its longest segments.

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

segments = measures.segments  # pandas.DataFrame(segments) makes a table of it
longest = np.argsort(segments["length"])[::-1][:3]
for number in longest:
    length, width = segments["length"][number], segments["width"][number]
    print(f"segment of {length:.0f} pixels, {width:.1f} wide")
