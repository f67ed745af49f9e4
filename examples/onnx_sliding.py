"""Segment a photograph with ONNX Runtime, NumPy and Pillow alone: a pattern for other languages.

vesselseg export -o vessels.onnx
python examples/onnx_sliding.py vessels.onnx PHOTOGRAPH MASK.png [FACTOR]

This is everything that a port to C++, C# or JavaScript needs. Three simplifications move borders a
little: the field of view is where the photograph is brighter than 15, not a fitted circle; windows
cover the whole photograph, not the field of view alone; and "fit" resizes with Pillow, not OpenCV.
"""

import json
import os
import sys

import numpy as np
from PIL import Image

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import: ONNX Runtime reports its use
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map
spec, divisor = json.loads(metadata["spec"]), int(metadata["size_divisor"])
crop, stride, scale = spec["crop"], spec["stride"], spec["scale"]
photograph = Image.open(sys.argv[2]).convert("RGB")
width, height = photograph.size
bright = np.asarray(photograph).max(axis=2) > 15
diameter = max(np.ptp(np.flatnonzero(bright.any(axis=axis))) for axis in (0, 1))
if len(sys.argv) > 4:  # the scale: a factor, or a rule that gives one
    scale = float(sys.argv[4])
elif scale == "fov":
    least = spec["fov_diameter"]
    scale = min(max(diameter, least), spec["fov_diameter_max"] or least) / diameter
elif scale == "fit":
    long, short = max(spec["fit_size"]), min(spec["fit_size"])
    scale = min(long / max(height, width), short / min(height, width))
elif scale == "native":
    scale = 1.0
size = [max(int(side * scale + 0.5), 1) for side in (width, height)]
image = np.asarray(photograph.resize(size, Image.Resampling.BILINEAR))
if spec["fov_rgb_mean"]:  # the colours: a gain for each channel
    gains = np.divide(spec["fov_rgb_mean"], np.asarray(photograph)[bright].mean(axis=0))
    image = (image * gains.clip(0.25, 8)).round().clip(0, 255).astype(np.uint8)

# Windows start every `stride` pixels, and the last one ends at the border.
sums, counts = np.zeros((2, *image.shape[:2]), np.float32)
lasts = [max(length - crop, 0) for length in image.shape[:2]]
tops, lefts = ([min(i * stride, x) for i in range(-(-x // stride) + 1)] for x in lasts)
for top in tops:
    for left in lefts:
        place = np.s_[top : top + crop, left : left + crop]
        window = image[place]
        h, w = window.shape[:2]  # those of a small image are extended
        window = np.pad(window, ((0, -h % divisor), (0, -w % divisor), (0, 0)), mode="edge")
        (logits,) = session.run(["logits"], {"image": window.transpose(2, 0, 1)[None]})
        sums[place] += (logits[0, 1] - logits[0, 0])[:h, :w]  # vessel minus background
        counts[place] += 1
bias = 0.0  # of the vessel, in small fields of view
if spec["small_fov_bias"]:
    largest, most = spec["small_fov_bias"]
    bias = most * np.log2(largest / diameter).clip(0, 1)
# A pixel is vessel if its mean is above 0, which is a probability above 0.5.
back = (size[0] / width, 0, 0, 0, size[1] / height, 0)  # bilinear, without antialiasing
mean = Image.fromarray(sums / counts)
mean = mean.transform(photograph.size, Image.Transform.AFFINE, back, Image.Resampling.BILINEAR)
mask = np.asarray(mean) + bias > 0
Image.fromarray(mask.astype(np.uint8) * 255).save(sys.argv[3])
