"""Segment all photographs of a folder; write masks of the same names to another folder.

python examples/folder.py [PHOTOGRAPHS [MASKS]]

Run it again after an interruption, and it does the rest.
"""

import sys
from pathlib import Path

import vesselseg

photographs = sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent
masks = sys.argv[2] if len(sys.argv) > 2 else "masks"


def report(row: dict) -> None:
    """Print what became of one photograph."""
    share = "" if "error" in row else f"{row['vessel_fraction']:.1%} is vessel"
    print(f"{row['input']}: {row.get('error', share)}")


print(vesselseg.segment_folder(photographs, masks, resume=True, on_row=report))
