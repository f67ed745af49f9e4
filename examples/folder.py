"""Segment all photographs of a folder; write masks of the same names to another folder.

python examples/folder.py [PHOTOGRAPHS [MASKS]]
"""

import sys
from pathlib import Path

import vesselseg

photographs = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
masks = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("masks")
masks.mkdir(parents=True, exist_ok=True)

model = vesselseg.load_model()  # loaded once
files = sorted(photographs.glob("*.jpg"))
for file, result in zip(files, model.segment_many(files), strict=True):
    result.save(masks / f"{file.stem}.png")
    print(file.name, result)
