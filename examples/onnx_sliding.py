"""A mask from an exported model with NumPy, Pillow and ONNX Runtime alone: a pattern for ports.

vesselseg export -o vessels.onnx
python examples/onnx_sliding.py vessels.onnx PHOTOGRAPH MASK.png [FACTOR]

All that a port to C++, C# or JavaScript has to do. Simplified, which moves borders a little: the
field of view is what is brighter than 15, not a fitted circle; "fit" lacks OpenCV's rounding.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map
record, multiple = json.loads(metadata["record"]), int(metadata["multiple"])
crop, stride, scale = record["crop"], record["stride"], record["scale"]
photograph = Image.open(sys.argv[2]).convert("RGB")
width, height = photograph.size
bright = np.asarray(photograph).max(axis=2) > 15
if len(sys.argv) > 4:  # the scale: a factor, or a rule for one
    scale = float(sys.argv[4])
elif scale == "fov":
    seen = max(np.ptp(np.flatnonzero(bright.any(axis=a))) for a in (0, 1))
    least = record["fov_diameter"]
    scale = min(max(seen, least), record["fov_diameter_max"] or least) / seen
elif scale == "fit":
    long, short = max(record["fit_size"]), min(record["fit_size"])
    scale = min(long / max(height, width), short / min(height, width))
elif scale == "native":
    scale = 1.0
size = [max(int(side * scale + 0.5), 1) for side in (width, height)]
image = np.asarray(photograph.resize(size, Image.Resampling.BILINEAR))
if record["fov_rgb_mean"]:  # the colours: a gain for each channel
    gains = np.divide(record["fov_rgb_mean"], np.asarray(photograph)[bright].mean(axis=0))
    image = (image * gains.clip(0.25, 8)).round().clip(0, 255).astype(np.uint8)

# Windows start every stride pixels; the last one ends at the border.
sums, counts = np.zeros((2, *image.shape[:2]), np.float32)
lasts = [max(length - crop, 0) for length in image.shape[:2]]
tops, lefts = ([min(i * stride, x) for i in range(-(-x // stride) + 1)] for x in lasts)
for top in tops:
    for left in lefts:
        place = np.s_[top : top + crop, left : left + crop]
        tile = image[place]
        h, w = tile.shape[:2]  # an image smaller than a window is filled up
        tile = np.pad(tile, ((0, -h % multiple), (0, -w % multiple), (0, 0)), mode="edge")
        (logits,) = session.run(["logits"], {"image": tile.transpose(2, 0, 1)[None]})
        sums[place] += (logits[0, 1] - logits[0, 0])[:h, :w]  # vessel minus background
        counts[place] += 1
# A pixel is vessel where the mean is above 0: where its probability is above 0.5.
back = (size[0] / width, 0, 0, 0, size[1] / height, 0)  # bilinear, without antialiasing
mean = Image.fromarray(sums / counts)
mean = mean.transform(photograph.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
mask = np.asarray(mean) > 0
if record["mask_outside_fov"]:
    mask &= bright
Image.fromarray(mask.astype(np.uint8) * 255).save(sys.argv[3])
