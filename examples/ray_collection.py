"""A collection on Ray: the photographs of a folder or a bucket, masks and a Parquet manifest.

pip install 'vesselseg[ray]'
python examples/ray_collection.py [PHOTOGRAPHS [MASKS [ADDRESS]]]

PHOTOGRAPHS and MASKS may be addresses such as s3://bucket/folder. ADDRESS is that of a running
cluster; without it two workers on this machine do it. The same line again does only what is left.
"""

import sys
from pathlib import Path

from vesselseg.ray import segment_dataset


def tell(row: dict) -> None:
    """Called with the manifest's row of each image, as it is finished."""
    print(f"{Path(row['input']).name}: {row['error'] or 'done'}")


if __name__ == "__main__":
    photographs = sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parent)
    masks = sys.argv[2] if len(sys.argv) > 2 else "masks"
    address = sys.argv[3] if len(sys.argv) > 3 else None
    summary = segment_dataset(
        photographs, masks, address=address, workers=None if address else 2, on_row=tell
    )
    print(
        f"{summary.segmented} segmented, {summary.skipped} skipped, {summary.failed} failed; "
        f"all of them are in {summary.manifest}"
    )
