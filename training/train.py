"""Train a compact U-Net on openly licensed photographs; saves often, resumes by itself.

    python training/train.py --chase-db1 FOLDER --hrf FOLDER --run runs/first \
        --hold-out chase_db1/09 chase_db1/10 hrf/05_dr hrf/05_g hrf/05_h

See training/README.md for the folders and for what comes after (export.py).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from data import Windows, chase_db1, hrf, pyramid

from vesselseg.unet import UNet

MEAN = torch.tensor([123.675, 116.28, 103.53])[:, None, None] / 255
STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None] / 255


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chase-db1", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--hrf", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--run", type=Path, required=True, help="folder of state and log")
    parser.add_argument("--hold-out", nargs="*", default=[], help="groups not trained on")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--depth", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=6000)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the moving average")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    sources = [*(chase_db1(options.chase_db1) if options.chase_db1 else []),
               *(hrf(options.hrf) if options.hrf else [])]  # fmt: skip
    unknown = set(options.hold_out) - {source.group for source in sources}
    if unknown:
        parser.error(f"no such group: {', '.join(sorted(unknown))}")
    sources = [source for source in sources if source.group not in options.hold_out]
    if not sources:
        parser.error("no photograph to train on: give --chase-db1 or --hrf")
    train(options, sources)


def train(options: argparse.Namespace, sources: list) -> None:
    options.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    net = UNet(options.width, options.depth, norm=True).to(memory_format=torch.channels_last)
    average = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    windows = Windows([pyramid(source) for source in sources], np.random.default_rng(options.seed))
    state_file, start = options.run / "state.pth", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        average, start = state["average"], state["iteration"]
        windows.rng.bit_generator.state = json.loads(state["rng"])
    print(f"{len(sources)} photographs, from iteration {start}", flush=True)

    losses: list[float] = []
    began = time.monotonic()
    for iteration in range(start, options.iterations):
        for group in optimizer.param_groups:
            group["lr"] = rate(iteration, options)
        images, labels = windows.batch(options.batch_size)
        x = ((images - MEAN) / STD).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = net(x)
        loss = criterion(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        move(average, net.state_dict(), min(options.average, (1 + iteration) / (10 + iteration)))
        losses.append(loss.item())
        done = iteration + 1
        if done % 200 == 0 or done == options.iterations:
            speed = (time.monotonic() - began) / (done - start)
            loss = round(float(np.mean(losses)), 4)
            print(json.dumps({"iteration": done, "loss": loss, "s": round(speed, 3)}), flush=True)
            losses.clear()
            save(state_file, {
                "net": net.state_dict(), "optimizer": optimizer.state_dict(), "average": average,
                "iteration": done, "rng": json.dumps(windows.rng.bit_generator.state),
                "width": options.width, "depth": options.depth,
            })  # fmt: skip


def rate(iteration: int, options: argparse.Namespace) -> float:
    """Linear warm-up over 5 % of the run, then half a cosine down to zero."""
    warm = max(options.iterations // 20, 1)
    if iteration < warm:
        return options.rate * (iteration + 1) / warm
    part = (iteration - warm) / (options.iterations - warm)
    return float(options.rate * 0.5 * (1 + math.cos(math.pi * part)))


def criterion(logits: torch.Tensor, coverage: torch.Tensor) -> torch.Tensor:
    """Cross-entropy against the coverage plus soft Dice over the batch."""
    target = torch.stack([1 - coverage, coverage], dim=1)
    entropy = F.cross_entropy(logits, target)
    vessel = logits.softmax(dim=1)[:, 1]
    dice = (2 * (vessel * coverage).sum() + 1) / (vessel.sum() + coverage.sum() + 1)
    return entropy + 1 - dice


@torch.no_grad()
def move(average: dict, state: dict, decay: float) -> None:
    for key, value in state.items():
        if value.is_floating_point():
            average[key].lerp_(value, 1 - decay)
        else:
            average[key].copy_(value)


def save(path: Path, state: dict) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


if __name__ == "__main__":
    main()
