"""vesselseg inside another program: an array in, an array out, with its own logger and device.

Nothing global changes: no logging handler, thread count, random state or output.
"""

import logging
from pathlib import Path

import numpy as np
from PIL import Image

import vesselseg


class VesselFinder:
    """A wrapper that a program might have."""

    def __init__(self, device: str = "auto") -> None:
        self.model = vesselseg.load_model(device=device)

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (H, W) float32, the probability of vessel."""
        return self.model(pixels).probability


if __name__ == "__main__":
    # Warnings, for example about a photograph of unusual scale, go to the logger "vesselseg".
    logging.basicConfig(format="program | %(name)s | %(message)s")
    finder = VesselFinder(device="cpu")
    with Image.open(Path(__file__).with_name("fundus.jpg")) as image:
        photograph = np.asarray(image.convert("RGB"))
    probability = finder.find(photograph)
    print(f"{probability.shape}, {(probability > 0.5).mean():.1%} of the frame is vessel")
    try:
        finder.find(photograph.astype(np.int64))
    except vesselseg.ImageError as error:
        print(f"rejected: {error}")
