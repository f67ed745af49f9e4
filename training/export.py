"""Write the moving average of a run as a model file: float16, batch norms folded.

    python training/export.py --run runs/first --output FILE.pth

With several runs, which must have started from the same weights, their mean is written. With
`--average no`, the weights of the last step are written instead. `--threshold 0.4` moves the last
bias so that a probability of 0.4 becomes 0.5, the threshold of masks.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from pathlib import Path

import torch

from vesselseg.files import sha256
from vesselseg.registry import EMBEDDED
from vesselseg.unet import UNet, fold_batch_norm
from vesselseg.weights import save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, nargs="+", required=True, help="folders of train.py")
    parser.add_argument("--output", type=Path, required=True, help="file to write, .pth")
    parser.add_argument("--average", choices=["yes", "no"], default="yes")
    parser.add_argument("--threshold", type=float, default=0.5, help="probability that becomes 0.5")
    parser.add_argument("--diameter", type=float, nargs=2, metavar=("LEAST", "MOST"),
                        help="field of view in use (default: as in training)")  # fmt: skip
    parser.add_argument("--expected-dice", type=float,
                        help="on known photographs, as familiarity.py prints it")  # fmt: skip
    parser.add_argument("--least-sharpness", type=float,
                        help="as familiarity.py prints it")  # fmt: skip
    options = parser.parse_args()
    if not 0 < options.threshold < 1:
        parser.error("--threshold must be between 0 and 1")

    states = [
        torch.load(run / "state.pth", map_location="cpu", weights_only=True) for run in options.run
    ]
    state = states[0]
    kind = "average" if options.average == "yes" else "network"
    folded = [fold_batch_norm(state[kind]) for state in states]
    mean = {key: sum(weights[key] for weights in folded) / len(folded) for key in folded[0]}
    network = UNet(state["width"], state["depth"])
    network.load_state_dict(mean)
    with torch.no_grad():
        vessel = network.head.classifier.bias[1]
        vessel += math.log((1 - options.threshold) / options.threshold)
    least, most = options.diameter or state["diameter"]
    spec = dataclasses.replace(
        EMBEDDED, width=state["width"], depth=state["depth"], fov_diameter=least,
        fov_diameter_max=most, fov_rgb_mean=state["fov_rgb_mean"],
        small_fov_bias=state["small_fov_bias"], sources=(),
        expected_dice=options.expected_dice, least_sharpness=options.least_sharpness,
    )  # fmt: skip
    save(options.output, network, spec, dtype=torch.float16)
    size = options.output.stat().st_size
    print(f"{options.output}: {state['iteration']} iterations, {size} bytes")
    print(f"SHA-256 {sha256(options.output)}")


if __name__ == "__main__":
    main()
