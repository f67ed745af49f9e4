"""Train a compact U-Net on openly licensed photographs; saves often, resumes by itself.

    python training/train.py --chase-db1 FOLDER --hrf FOLDER --run runs/first \
        --split training/splits/fold1.json

See training/README.md for the folders and for what comes after (export.py).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from data import FOV_MEAN, add_folders, of_groups, photographs, windows

from vesselseg.finetune.trainer import Trainer
from vesselseg.finetune.windows import Augmentation, Sizes
from vesselseg.unet import UNet

SAVE_EVERY = 200  # iterations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_folders(parser)
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
        sources = of_groups(photographs(options), groups)
    except ValueError as error:
        parser.error(str(error))
    train(options, sources)


def train(options: argparse.Namespace, sources: list) -> None:
    options.run.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)
    net = UNet(options.width, options.depth, norm=True)
    if options.start:
        net.load_state_dict(torch.load(options.start / "state.pth", weights_only=True)["average"])
    trainer = Trainer(
        net,
        iterations=options.iterations,
        rate=options.rate,
        decay=options.average,
        centreline=options.centreline,
    )
    drawn = windows(
        sources,
        Sizes(tuple(options.diameter), tuple(options.zoom)),
        np.random.default_rng(options.seed),
        balance=options.balance == "yes",
        augmentation=Augmentation(options.colour, options.local == "yes", options.turn == "yes"),
    )
    state_file = options.run / "state.pth"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        trainer.load_state_dict(state)
        drawn.rng.bit_generator.state = json.loads(state["rng"])
    start = trainer.iteration
    print(f"{len(sources)} photographs, from iteration {start}", flush=True)

    losses: list[float] = []
    began = time.monotonic()
    while trainer.iteration < options.iterations:
        losses.append(trainer.step(drawn.batch(options.batch_size)))
        done = trainer.iteration
        if done % SAVE_EVERY == 0 or done == options.iterations:
            speed = (time.monotonic() - began) / (done - start)
            loss = round(float(np.mean(losses)), 4)
            print(json.dumps({"iteration": done, "loss": loss, "s": round(speed, 3)}), flush=True)
            losses.clear()
            save(state_file, {
                **trainer.state_dict(), "rng": json.dumps(drawn.rng.bit_generator.state),
                "width": options.width, "depth": options.depth, "diameter": list(options.diameter),
                "fov_rgb_mean": FOV_MEAN if options.balance == "yes" else None,
            })  # fmt: skip


def save(path: Path, state: dict) -> None:
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


if __name__ == "__main__":
    main()
