"""Hand a mask to PVBM, and compare its area with the density that vesselseg measures.

Needs the extra "measure" of vesselseg, and PVBM: pip install pvbm
"""

import sys
from pathlib import Path

from PVBM.GeometryAnalysis import GeometricalVBMs
from skimage.morphology import skeletonize

import vesselseg

PHOTOGRAPH = Path(__file__).with_name("fundus.jpg")
# The optic disc in this photograph, in pixels, read off by eye. vesselseg does not find it; PVBM
# has a model for it, PVBM.DiscSegmenter.
DISC_X, DISC_Y, DISC_RADIUS = 217, 650, 100
NAMES = ["area", "tortuosity index", "median tortuosity", "length", "median branching angle",
         "start points", "end points", "intersection points"]  # fmt: skip

sys.setrecursionlimit(100_000)  # PVBM follows the vessels by recursion

result = vesselseg.segment(PHOTOGRAPH)
measures = result.measure(fill_holes=0, min_size=0)  # of the mask as it is, as PVBM takes it

mask = result.mask.astype(float)  # PVBM takes values of 0 and 1
skeleton = skeletonize(result.mask).astype(float)
values, _ = GeometricalVBMs().compute_geomVBMs(mask, skeleton, DISC_X, DISC_Y, DISC_RADIUS)

for name, value in zip(NAMES, values, strict=True):
    print(f"{name:24} {value:.5g}")
print(f"{'density x field of view':24} {measures.density * measures.fov_area_px:.5g}")
