"""Inside another program: an array in, an array out, with the program's own logger and device.

Nothing global changes: no logging handler, no thread count, no random state, no output.
"""

import logging
from pathlib import Path

import numpy as np
from PIL import Image

import vesselseg


class VesselFinder:
    """What a program might wrap around the library."""

    def __init__(self, device: str = "auto") -> None:
        self.model = vesselseg.load_model(device=device)

    def find(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 RGB -> (H, W) float32, the probability of vessel."""
        return self.model(pixels).probability


if __name__ == "__main__":
    # Warnings, such as for a photograph of unusual scale, arrive at the logger "vesselseg".
    logging.basicConfig(format="program | %(name)s | %(message)s")
    finder = VesselFinder(device="cpu")
    with Image.open(Path(__file__).with_name("fundus.jpg")) as image:
        photograph = np.asarray(image.convert("RGB"))
    probability = finder.find(photograph)
    print(f"{probability.shape}, {(probability > 0.5).mean():.1%} of the frame is vessel")
    try:
        finder.find(photograph.astype(np.int64))
    except vesselseg.ImageError as error:
        print(f"refused: {error}")
