"""Train a compact U-Net on openly licensed photographs; an interrupted run resumes.

    python training/train.py --chase-db1 FOLDER --hrf FOLDER --run runs/first \
        --split training/splits/fold1.json

See training/README.md for the folders and the next step (export.py).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
from data import FOV_MEAN, add_folders, idrid, of_groups, photographs, windows
from torch import Tensor

from vesselseg.files import whole_file
from vesselseg.finetune.augmentation import Augmentation
from vesselseg.finetune.trainer import Trainer
from vesselseg.finetune.training import load_start
from vesselseg.finetune.windows import Sizes, Windows
from vesselseg.unet import UNet

SAVE_EVERY = 200  # iterations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_folders(parser)
    parser.add_argument("--idrid", type=Path, help="folder with images/ and pseudo-labels, labels/")
    parser.add_argument("--run", type=Path, required=True, help="folder of state and log")
    parser.add_argument("--split", type=Path, required=True, help='JSON: groups to "train" on')
    add = parser.add_argument_group("recipe").add_argument
    add("--width", type=int, default=16, help="channels of the first stage")
    add("--depth", type=int, default=5, help="stages")
    add("--diameter", type=float, nargs=2, default=(1000, 1500), metavar=("LEAST", "MOST"),
        help="range that fields of view are brought into, in pixels")  # fmt: skip
    add("--zoom", type=float, nargs=2, default=(0.55, 1.6), help="range of random zoom")
    add("--balance", choices=["yes", "no"], default="yes", help="same mean colours for all")
    add("--colour", type=float, default=1.5, help="strength of changes of colour, light, noise")
    add("--local", choices=["yes", "no"], default="yes", help="uneven light, local contrast")
    add("--turn", choices=["yes", "no"], default="yes", help="any rotation, and mirroring")
    add("--blur", type=float, default=0.25, help="share of windows that are blurred")
    add("--small", type=float, default=0.4, help="share of windows seen through a small camera")
    add("--small-bias", type=float, nargs=2, metavar=("DIAMETER", "BIAS"),
        help="small_fov_bias of the model spec to train with")  # fmt: skip
    add("--wide", nargs=2, action="append", default=[], metavar=("DATASET", "BIAS"),
        help="bias of the vessel logits of a data set whose observers draw wider")  # fmt: skip
    add("--weight", nargs=2, action="append", default=[], metavar=("DATASET", "WEIGHT"),
        help="relative frequency of a data set's photographs, if not 1")  # fmt: skip
    add("--dice", type=float, default=1, help="weight of soft Dice beside the cross-entropy")
    add("--centreline", type=float, default=0, help="weight of the centreline loss, 0 to 1")
    add("--iterations", type=int, default=6000)
    add("--batch-size", type=int, default=8)
    add("--rate", type=float, default=2e-3, help="highest learning rate")
    add("--average", type=float, default=0.998, help="decay of the moving average")
    add("--seed", type=int, default=0)
    add("--device", default="cpu", help='"cpu" or "cuda"')
    add("--start", type=Path, help="model file or folder of a run to start from")
    options = parser.parse_args()
    if options.colour < 0:
        parser.error(f"--colour {options.colour}: 0 or more")

    groups = json.loads(options.split.read_text())["train"]
    try:
        unlabelled = idrid(options.idrid) if options.idrid else []
        sources = of_groups(photographs(options) + unlabelled, groups)
    except ValueError as error:
        parser.error(str(error))
    train(options, sources)


def train(options: argparse.Namespace, sources: list) -> None:
    options.run.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    trainer = Trainer(
        starting_network(options),
        iterations=options.iterations,
        rate=options.rate,
        decay=options.average,
        dice=options.dice,
        centreline=options.centreline,
        device=device,
    )
    small_bias = tuple(options.small_bias) if options.small_bias else None
    drawn = windows(
        sources,
        Sizes(tuple(options.diameter), tuple(options.zoom)),
        options.seed,
        balance=options.balance == "yes",
        augmentation=Augmentation(
            options.colour, options.local == "yes", options.turn == "yes",
            blur=options.blur, small=options.small, small_bias=small_bias,
            least=options.diameter[0],
        ),
        biases={dataset: float(bias) for dataset, bias in options.wide},
        weights={dataset: float(weight) for dataset, weight in options.weight},
        device=device,
    )  # fmt: skip
    state_file = options.run / "state.pth"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        trainer.load_state_dict(state)
        drawn.generator.set_state(state["generator"])
    start = trainer.iteration
    print(f"{len(sources)} photographs, from iteration {start}", flush=True)

    step = captured_step if device.type == "cuda" else plain_step
    take_step = step(trainer, drawn, options.batch_size)
    total = torch.zeros((), device=device)
    began = time.monotonic()
    while trainer.iteration < options.iterations:
        total += take_step()
        done = trainer.iteration
        if done % SAVE_EVERY == 0 or done == options.iterations:
            loss = total.item() / ((done - 1) % SAVE_EVERY + 1)
            speed = (time.monotonic() - began) / (done - start)
            print(json.dumps({"iteration": done, "loss": round(loss, 4), "s": round(speed, 4)}),
                  flush=True)  # fmt: skip
            total.zero_()
            state = {
                **trainer.state_dict(), "generator": drawn.generator.get_state(),
                "width": options.width, "depth": options.depth, "diameter": list(options.diameter),
                "fov_rgb_mean": FOV_MEAN if options.balance == "yes" else None,
                "small_fov_bias": small_bias,
            }  # fmt: skip
            with whole_file(state_file) as part:
                torch.save(state, part)


def starting_network(options: argparse.Namespace) -> UNet:
    """A network with random weights, or with the weights of ``--start``."""
    if options.start and options.start.is_file():
        network, _, _ = load_start(options.start)
        return network
    network = UNet(options.width, options.depth, norm=True)
    if options.start:
        state = torch.load(options.start / "state.pth", map_location="cpu", weights_only=True)
        has_norm = "head.unit.norm.weight" in state["average"]
        network = UNet(options.width, options.depth, norm=has_norm)
        network.load_state_dict(state["average"])
    return network


def plain_step(trainer: Trainer, drawn: Windows, size: int) -> Callable[[], Tensor]:
    """A function that draws a batch, takes a step and returns the loss."""
    return lambda: trainer.step(drawn.batch(size))


def captured_step(trainer: Trainer, drawn: Windows, size: int) -> Callable[[], Tensor]:
    """The same as :func:`plain_step`, captured as a CUDA graph, which starts all kernels at once.

    Before the capture, PyTorch chooses algorithms and allocates buffers in three ordinary steps.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            trainer.step(drawn.batch(size))
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(drawn.generator)
    with torch.cuda.graph(graph):
        loss = trainer.descend(drawn.batch(size))

    def replay() -> Tensor:
        trainer.prepare()
        graph.replay()
        trainer.iteration += 1
        return loss

    return replay


if __name__ == "__main__":
    main()
