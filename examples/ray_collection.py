"""Segment a collection on Ray: photographs of a folder or bucket, masks, a Parquet manifest.

Needs the extra ray.

python examples/ray_collection.py [PHOTOGRAPHS [MASKS [ADDRESS]]]

PHOTOGRAPHS and MASKS can be addresses such as s3://bucket/folder. ADDRESS is that of a running
cluster; without it, two workers on this machine are used. Run it again to do only what is left.
"""

import sys
from pathlib import Path

from vesselseg.ray import segment_dataset


def show(row: dict) -> None:
    """Print what became of a photograph; called with its row of the manifest."""
    print(f"{Path(row['input']).name}: {row.get('error') or 'done'}")


if __name__ == "__main__":
    photographs = sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parent)
    masks = sys.argv[2] if len(sys.argv) > 2 else "masks"
    address = sys.argv[3] if len(sys.argv) > 3 else None
    summary = segment_dataset(
        photographs, masks, address=address, workers=None if address else 2, on_row=show
    )
    print(
        f"{summary.segmented} segmented, {summary.skipped} skipped, {summary.failed} failed; "
        f"see {summary.manifest}"
    )
