"""Seconds per image beside mmsegmentation's own sliding window, same weights, same process.

    python -m venv .venv-benchmarks
    .venv-benchmarks/bin/pip install -c constraints.txt -r benchmarks/requirements.txt .
    .venv-benchmarks/bin/python benchmarks/speed.py --json speed.json

Runs of all candidates alternate; the median of each is shown, and its ratio to mmsegmentation in
float32. Weights are drawn at random, which takes the same time as trained ones; the photograph is
the example, at the size of each data set's images. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import vesselseg

EXAMPLE = Path(__file__).parents[1] / "examples" / "fundus.jpg"
CONFIGS = {
    "unet_s5-d16_drive": "unet-s5-d16_fcn_4xb4-40k_drive-64x64.py",
    "unet_s5-d16_stare": "unet-s5-d16_fcn_4xb4-40k_stare-128x128.py",
    "unet_s5-d16_chase_db1": "unet-s5-d16_fcn_4xb4-40k_chase-db1-128x128.py",
    "unet_s5-d16_hrf": "unet-s5-d16_fcn_4xb4-40k_hrf-256x256.py",
}
HRF_PART = (1016, 1016)  # of 2336 x 3504: 36 of 294 windows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=[*CONFIGS])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    threads = torch.get_num_threads()
    print(f"{processor()}, {threads} threads, torch {torch.__version__}\n")
    print("| model | image | candidate | seconds | times mmsegmentation | equal pixels |")
    print("|---|---|---|---|---|---|")
    rows = [row for name in options.models for row in compare(name, options.repeats)]
    if options.json:
        about = {"processor": processor(), "threads": threads, "torch": torch.__version__}
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=2))


def compare(name: str, repeats: int) -> list[dict]:
    record = vesselseg.checkpoints.find_checkpoint(name)
    size = HRF_PART if record.dataset == "hrf" else record.fit_size
    with Image.open(EXAMPLE) as image:
        pixels = np.array(image.resize(size[::-1]))
    theirs = reference(CONFIGS[name])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "weights.pth"
        torch.save({"state_dict": theirs.state_dict()}, file)
        models = {
            precision: vesselseg.load_model(name, weights=file, device="cpu", precision=precision)
            for precision in ("float32", "bfloat16")
        }
    candidates: dict[str, Callable[[], np.ndarray]] = {
        "mmsegmentation": lambda: slide(theirs, pixels, record),
        **{
            f"vesselseg {precision}": (lambda model=model: model(pixels, scale="native").mask)
            for precision, model in models.items()
        },
        "vesselseg, embedded model": lambda: EMBEDDED(pixels).mask,
    }
    masks = {label: run() for label, run in candidates.items()}  # and all is warm
    times: dict[str, list[float]] = {label: [] for label in candidates}
    for _ in range(repeats):
        for label, run in candidates.items():
            begun = time.perf_counter()
            run()
            times[label].append(time.perf_counter() - begun)
    rows = []
    for label in candidates:
        seconds = statistics.median(times[label])
        ratio = statistics.median(
            a / b for a, b in zip(times["mmsegmentation"], times[label], strict=True)
        )
        same = float((masks[label] == masks["mmsegmentation"]).mean())
        same_network = "embedded" not in label
        rows.append({"model": name, "size": size, "candidate": label, "seconds": seconds,
                     "ratio": ratio, "equal": same if same_network else None})  # fmt: skip
        equal = f"{100 * same:.3f} %" if same_network else ""
        image = f"{size[0]} x {size[1]}"
        print(f"| {name} | {image} | {label} | {seconds:.2f} | {ratio:.2f} | {equal} |", flush=True)
    return rows


def reference(config: str) -> torch.nn.Module:
    """mmsegmentation's model with random weights; half of its pixels vessel, or nearly so."""
    # Its wheel imports a compiled module of mmcv that these models never call.
    sys.modules.setdefault("mmcv._ext", _Unused("mmcv._ext"))
    import mmseg
    from mmengine.config import Config
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    file = Path(mmseg.__file__).parent / ".mim" / "configs" / "unet" / config
    settings = Config.fromfile(file).model
    settings.pretrained = None
    for part in (settings.backbone, settings.decode_head, settings.auxiliary_head):
        part.norm_cfg = {"type": "BN", "requires_grad": True}
    return MODELS.build(settings).eval()


class _Unused(types.ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def slide(model: torch.nn.Module, pixels: np.ndarray, record: vesselseg.Checkpoint) -> np.ndarray:
    """Normalise, slide, threshold: what `inference_model` does without resampling."""
    image = (pixels.astype(np.float32) - np.float32(record.mean)) / np.float32(record.std)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()
    meta = {"ori_shape": pixels.shape[:2], "img_shape": pixels.shape[:2], "flip": False}
    with torch.no_grad():
        logits = model.slide_inference(tensor, [meta])
    return logits[0].argmax(dim=0).numpy().astype(bool)


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


EMBEDDED = vesselseg.load_model(device="cpu")

if __name__ == "__main__":
    main()
