"""Train a compact U-Net on openly licensed photographs; saves often, resumes by itself.

    python training/train.py --chase-db1 FOLDER --hrf FOLDER --run runs/first \
        --split training/splits/fold1.json

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
from data import FOV_MEAN, Changes, Scale, Windows, of_groups, photographs
from losses import centreline_dice, entropy_and_dice

from vesselseg.unet import UNet

MEAN = torch.tensor([123.675, 116.28, 103.53])[:, None, None] / 255
STD = torch.tensor([58.395, 57.12, 57.375])[:, None, None] / 255
SAVE_EVERY = 200  # iterations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chase-db1", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--hrf", type=Path, help="folder with images/ and labels/")
    parser.add_argument("--run", type=Path, required=True, help="folder of state and log")
    parser.add_argument("--split", type=Path, required=True, help='JSON: groups to "train" on')
    add = parser.add_argument_group("recipe").add_argument
    add("--width", type=int, default=16, help="channels of the first stage")
    add("--depth", type=int, default=5, help="stages")
    add("--diameter", type=float, nargs=2, default=(1000, 1500), metavar=("LEAST", "MOST"),
        help="fields of view are brought into this range, in pixels")  # fmt: skip
    add("--zoom", type=float, nargs=2, default=(0.55, 1.6), help="of that size, at random")
    add("--balance", choices=["yes", "no"], default="yes", help="the means of all fields of view")
    add("--colour", type=float, default=1.5, help="how much colour, light, noise are changed; or 0")
    add("--local", choices=["yes", "no"], default="yes", help="uneven light, local contrast")
    add("--turn", choices=["yes", "no"], default="yes", help="any rotation, and mirroring")
    add("--centreline", type=float, default=0, help="weight of the centreline loss, 0 to 1")
    add("--iterations", type=int, default=6000)
    add("--batch-size", type=int, default=8)
    add("--rate", type=float, default=2e-3, help="highest learning rate")
    add("--average", type=float, default=0.998, help="decay of the moving average")
    add("--seed", type=int, default=0)
    add("--start", type=Path, help="folder of a run whose weights this one starts from")
    options = parser.parse_args()
    if options.colour < 0:
        parser.error(f"--colour {options.colour}: 0 or more")

    groups = json.loads(options.split.read_text())["train"]
    try:
        sources = of_groups(photographs(options.chase_db1, options.hrf), groups)
    except ValueError as error:
        parser.error(str(error))
    train(options, sources)


def train(options: argparse.Namespace, sources: list) -> None:
    options.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    net = UNet(options.width, options.depth, norm=True).to(memory_format=torch.channels_last)
    if options.start:
        net.load_state_dict(torch.load(options.start / "state.pth", weights_only=True)["average"])
    average = {key: value.clone() for key, value in net.state_dict().items()}
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    windows = Windows(
        sources,
        Scale(tuple(options.diameter), tuple(options.zoom)),
        np.random.default_rng(options.seed),
        balance=options.balance == "yes",
        changes=Changes(options.colour, options.local == "yes", options.turn == "yes"),
    )
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
        loss = entropy_and_dice(logits.float(), labels)
        if options.centreline:
            loss = loss + options.centreline * centreline_dice(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        move(average, net.state_dict(), min(options.average, (1 + iteration) / (10 + iteration)))
        losses.append(loss.item())
        done = iteration + 1
        if done % SAVE_EVERY == 0 or done == options.iterations:
            speed = (time.monotonic() - began) / (done - start)
            loss = round(float(np.mean(losses)), 4)
            print(json.dumps({"iteration": done, "loss": loss, "s": round(speed, 3)}), flush=True)
            losses.clear()
            save(state_file, {
                "net": net.state_dict(), "optimizer": optimizer.state_dict(), "average": average,
                "iteration": done, "rng": json.dumps(windows.rng.bit_generator.state),
                "width": options.width, "depth": options.depth, "diameter": list(options.diameter),
                "fov_rgb_mean": FOV_MEAN if options.balance == "yes" else None,
            })  # fmt: skip


def rate(iteration: int, options: argparse.Namespace) -> float:
    """Linear warm-up over 5 % of the run, then half a cosine down to zero."""
    warm = max(options.iterations // 20, 1)
    if iteration < warm:
        return options.rate * (iteration + 1) / warm
    part = (iteration - warm) / (options.iterations - warm)
    return float(options.rate * 0.5 * (1 + math.cos(math.pi * part)))


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
