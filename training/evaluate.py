"""Vessel Dice of a model on photographs held out of its training, whole frames, own sizes.

    python training/evaluate.py --model FILE.pth --chase-db1 FOLDER --hrf FOLDER \
        --groups chase_db1/09 chase_db1/10 hrf/05_dr hrf/05_g hrf/05_h

Without --model, the embedded model. Pooled figures sum the counts of all photographs of a
data set, as published scores do.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np
from data import chase_db1, hrf
from PIL import Image

import vesselseg


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="file of export.py; the embedded model if none")
    parser.add_argument("--chase-db1", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--hrf", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--groups", nargs="+", required=True, help="groups to evaluate")
    options = parser.parse_args()
    sources = [*(chase_db1(options.chase_db1) if options.chase_db1 else []),
               *(hrf(options.hrf) if options.hrf else [])]  # fmt: skip
    unknown = set(options.groups) - {source.group for source in sources}
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}")

    model = vesselseg.load_model(options.model)
    pooled: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3, dtype=np.int64))
    for source in sources:
        if source.group not in options.groups:
            continue
        mask = model(source.image).mask
        with Image.open(source.label) as image:
            grey = np.asarray(image.convert("L"))
        label = grey > grey.max() / 2
        counts = np.array([(mask & label).sum(), (mask & ~label).sum(), (~mask & label).sum()])
        pooled[source.name.split("/")[0]] += counts
        print(f"{source.name:28} {report(counts)}", flush=True)
    for dataset, counts in pooled.items():
        print(f"{dataset + ', pooled':28} {report(counts)}")


def report(counts: np.ndarray) -> str:
    true, false, missed = (int(count) for count in counts)
    dice = 200 * true / (2 * true + false + missed)
    return f"Dice {dice:5.2f}  sensitivity {true / (true + missed):.3f}  precision {true / (true + false):.3f}"  # noqa: E501


if __name__ == "__main__":
    main()
