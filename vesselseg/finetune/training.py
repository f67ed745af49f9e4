"""Fine-tune a model on your own labelled photographs: :func:`train`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import weights
from .._version import __version__
from ..api import Model, PathLike, obtain_network, resolve_model
from ..backends.pytorch import choose_device, is_out_of_memory
from ..choices import canonical_device
from ..errors import CheckpointError, DatasetError, OptionError, OutputError, ResourceError
from ..evaluation.datasets import Sample, read_pairs
from ..files import exists, is_folder, sha256, whole_file
from ..images import check_bits
from ..metrics import Confusion
from ..process import check_fork, progress_bar
from ..registry import REGISTRY
from ..spec import ModelSpec, check_integer, plain
from ..unet import UNet
from .augmentation import Augmentation
from .card import write_card
from .photographs import name_in_folder, read_corrected, read_labelled, split_by_subject
from .scores import HeldOutScores, score_held_out
from .state import read_state, write_state
from .trainer import Trainer
from .windows import Sizes, Windows

logger = logging.getLogger(__name__)

_ZOOM = (0.7, 1.4)
_AUGMENTATION = Augmentation(colour=1.0, local=True)
_DECAY = 0.99  # of the moving average
_LOG_EVERY = 10  # iterations


@dataclass(frozen=True)
class TrainingResult:
    """The files that :func:`train` wrote, and the scores before and after.

    Attributes
    ----------
    output, card : Path
        The model file, for ``vesselseg.load_model``, and its model card.
    spec : ModelSpec
        The model spec in the file.
    sha256 : str
        SHA-256 of the model file.
    iterations : int
        Number of iterations, less than the maximum if the training stopped early.
    before, after : HeldOutScores
        Scores of the starting model, and of the weights in the file, on the held-out photographs.
    training, held_out : tuple of str
        Names of the photographs to train on, and of the held-out photographs.
    """

    output: Path
    card: Path
    spec: ModelSpec
    sha256: str
    iterations: int
    before: HeldOutScores
    after: HeldOutScores
    training: tuple[str, ...]
    held_out: tuple[str, ...]


@torch.inference_mode(mode=False)
@torch.enable_grad()
def train(
    images: PathLike,
    labels: PathLike | None,
    output: PathLike,
    *,
    recursive: bool = False,
    model: Model | None = None,
    group: str | None = None,
    held_out: float = 0.25,
    iterations: int = 300,
    evaluate_every: int = 50,
    patience: int = 4,
    rate: float = 5e-4,
    batch_size: int = 8,
    seed: int = 0,
    device: str | torch.device = "auto",
    bits: int | None = None,
    name: str | None = None,
    restart: bool = False,
    force: bool = False,
    progress: bool = True,
    on_evaluation: Callable[[HeldOutScores], None] | None = None,
) -> TrainingResult:
    """Fine-tune a model on your own labelled photographs.

    Parameters
    ----------
    images, labels : path
        Folders of photographs and of labels. A label has the file name of its photograph,
        optionally followed by ``_`` and more, with any ending, and its size. Vessels are white on
        black; beside 0 and 255, 128 marks pixels that are not known, which are left out of loss
        and scores. If `labels` is None, they are the corrections beside the photographs
        (:mod:`vesselseg.corrections`), and photographs without one are not used.
    output : path
        The model file to write, ending in ``.pth``. A model card is written beside it, ending in
        ``.md``. Until the training is done, its state is kept in ``output`` + ``.state``.
    recursive : bool
        Also use the corrections in subfolders of `images`, where `labels` is None.
    model : str, path, ModelSpec or None
        The model to start from, with the scale rule "fov": a file saved by vesselseg, or None for
        the embedded model.
    group : str, optional
        A regular expression for file names, after the names of subfolders. Its first group, or the
        whole match if it has none, names the subject, whose photographs are all trained on or all
        held out. If None, every photograph counts as a subject of its own.
    held_out : float
        Share of the subjects, at least one, to hold out for measuring, in (0, 1).
    iterations : int
        Maximum number of iterations.
    evaluate_every : int
        Number of iterations between two measurements on the held-out photographs.
    patience : int
        The training stops after this many measurements without a new highest Dice.
    rate : float
        Highest learning rate.
    batch_size : int
        Number of windows of 256 x 256 pixels in each iteration.
    seed : int
        Seed of all random choices: the held-out subjects and the windows.
    device : str or torch.device
        "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda", "cuda:1" or "mps".
    bits : int, optional
        Significant bits in 16-bit images, for example 12 if values run from 0 to 4095.
    name : str, optional
        Name of the new model. If None, the file name of `output` without its ending.
    restart : bool
        Start from the beginning instead of resuming an interrupted training.
    force : bool
        Overwrite `output` and its card if they exist.
    progress : bool
        Show a progress bar if standard error is a terminal.
    on_evaluation : callable, optional
        Called with the :class:`HeldOutScores` of each measurement, the first before training.

    Returns
    -------
    TrainingResult

    Raises
    ------
    FileNotFoundError
        If a folder or the model file does not exist.
    DatasetError, ImageError
        If a photograph has no label or several, if a photograph or label cannot be used, or if
        fewer than two photographs are corrected.
    UnknownModelError, CheckpointError
        If there is no such model, or if a model or state file is damaged.
    OptionError
        If any other argument is invalid, if the model has another scale rule, or if the
        interrupted training was started with other photographs or options.
    OutputError
        If `output` exists and `force` is False, or if a file cannot be written.
    DeviceError, ResourceError
        If the device is not available or has too little memory.

    Notes
    -----
    The file holds the weights with the highest Dice on the held-out photographs, pooled over whole
    frames at a threshold of 0.5. If no measurement is better than the first, these are the weights
    of the starting model.

    To resume an interrupted training from its last measurement, call the function again with the
    same arguments. On a CPU the result is the same, bit for bit, as without the interruption.

    Each photograph is kept in memory, those to train on in several sizes, which takes about 30 MB
    for 2000 x 2000 pixels.

    Examples
    --------
    >>> from vesselseg import finetune
    >>> result = finetune.train(  # doctest: +SKIP
    ...     "photographs", "labels", "model.pth", group="(.+)_[LR]"
    ... )
    >>> print(result.before.dice, result.after.dice)  # doctest: +SKIP
    """
    output = Path(output)
    if output.suffix.lower() != ".pth":
        raise OptionError(f"The output {str(output)!r} must end in '.pth', like 'model.pth'.")
    card = output.with_suffix(".md")
    state_file = output.with_name(f"{output.name}.state")
    name = output.stem if name is None else name
    if recursive and labels is not None:
        raise OptionError(
            "Subfolders are searched (recursive) for corrections only, which lie beside their "
            "photographs. Put all labels into one folder."
        )
    options: dict[str, Any] = {
        "group": group, "held_out": held_out, "iterations": iterations,
        "evaluate_every": evaluate_every, "patience": patience, "rate": rate,
        "batch_size": batch_size, "seed": seed, "device": device, "bits": check_bits(bits),
    }  # fmt: skip
    options = {key: plain(value) for key, value in options.items()}
    _check_options(options, name)
    _check_output(output, card, state_file, force=force)
    chosen_device = choose_device(canonical_device(device))
    options["device"] = str(chosen_device)
    check_fork(chosen_device)
    network, start, start_sha256 = load_start(model)
    spec = dataclasses.replace(
        start, name=name, dataset="own photographs", loss="ce+dice", dice=None, mdice=None,
        expected_dice=None, least_sharpness=None, sources=(), config="",
    )  # fmt: skip
    if labels is None:
        samples = read_corrected(Path(images), recursive, options["bits"])
    else:
        samples = read_pairs(Path(images), Path(labels), bits=options["bits"]).samples
    training, measured = split_by_subject(samples, group, options["held_out"], options["seed"])
    belongs_to = {
        **options,
        "name": name,
        "model": start_sha256,
        "photographs": {name_in_folder(x): sha256(x.image) for x in samples},
        "labels": {name_in_folder(x): sha256(x.label) for x in samples},
        "vesselseg": __version__,
        "torch": str(torch.__version__),
    }
    state = None
    if exists(state_file) and not restart:
        state = read_state(state_file, belongs_to)
    with progress_bar(shown=progress, total=iterations, desc="reading", unit="iteration") as bar:
        run = _Run(network, spec, training, measured, options)

        def evaluate() -> None:
            bar.set_description("measuring")
            scores = run.evaluate()
            write_state(state_file, belongs_to, run.state_dict())
            bar.set_postfix_str(f"Dice {100 * scores.dice:.2f}", refresh=False)
            bar.set_description("training")
            if on_evaluation is None:
                logger.info("Iteration %d: Dice %.4f", scores.iteration, scores.dice)
            else:
                on_evaluation(scores)

        if state is None:
            evaluate()
        else:
            run.load_state_dict(state, state_file)
            bar.initial = bar.n = run.trainer.iteration
            logger.info("Resuming after iteration %d.", run.trainer.iteration)
            bar.set_description("training")
        while not run.is_done:
            loss = run.step()
            bar.update()
            iteration = run.trainer.iteration
            if iteration % _LOG_EVERY == 0:
                logger.info("Iteration %d of %d: loss %.4f", iteration, iterations, loss.item())
            if iteration % evaluate_every == 0 or iteration == iterations:
                evaluate()
    with whole_file(output) as part:
        run.trainer.network.load_state_dict(run.best_weights)
        weights.save(part, run.trainer.network, spec)
        digest = sha256(part)
        text = write_card(
            spec=spec, sha256=digest, filename=output.name, start=start,
            start_sha256=start_sha256, training=training, held_out=measured, options=options,
            before=run.history[0], after=run.best, iterations=run.trainer.iteration,
        )  # fmt: skip
        with whole_file(card) as page:
            page.write_text(text, encoding="utf-8", errors="backslashreplace")
    state_file.unlink(missing_ok=True)
    return TrainingResult(
        output, card, spec, digest, run.trainer.iteration, run.history[0], run.best,
        tuple(sample.name for sample in training),
        tuple(sample.name for sample in measured),
    )  # fmt: skip


class _Run:
    """The network, windows and scores of a training."""

    def __init__(
        self,
        network: UNet,
        spec: ModelSpec,
        training: list[Sample],
        held_out: list[Sample],
        options: dict[str, Any],
    ) -> None:
        assert spec.fov_range is not None
        self.spec, self.options = spec, options
        self.device = torch.device(options["device"])
        self.held_out = [read_labelled(sample, spec) for sample in held_out]
        if not any(photograph.label.any() for photograph in self.held_out):
            names = ", ".join(repr(sample.image.name) for sample in held_out)
            raise DatasetError(
                f"No label of a held-out photograph ({names}) has a vessel, so nothing can be "
                f"measured. Mark some of the vessels, white, or choose another seed."
            )
        self.windows = Windows(
            (read_labelled(sample, spec) for sample in training),
            Sizes(spec.fov_range, _ZOOM),
            options["seed"],
            rgb_mean=spec.fov_rgb_mean,
            augmentation=_AUGMENTATION,
        )
        self.trainer = Trainer(
            network,
            iterations=options["iterations"],
            rate=options["rate"],
            decay=_DECAY,
            mean=spec.mean,
            std=spec.std,
            device=self.device,
        )
        self.history: list[HeldOutScores] = []
        self.best_weights: dict[str, Tensor] = {}

    @property
    def best(self) -> HeldOutScores:
        """The measurement with the highest Dice, the earliest one if several are equal."""
        return max(self.history, key=lambda scores: scores.dice)

    @property
    def is_done(self) -> bool:
        """Whether all iterations are done, or the last `patience` measurements are not the best."""
        since = len(self.history) - 1 - self.history.index(self.best)
        last = self.trainer.iteration == self.trainer.iterations
        return bool(last or since >= self.options["patience"])

    def step(self) -> Tensor:
        """Train on one batch of windows and return the loss."""
        size = self.options["batch_size"]
        try:
            with torch.autocast(self.device.type, enabled=False):  # the host's
                return self.trainer.step(self.windows.batch(size))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(
                f"{size} windows at once do not fit into the memory of {self.device}. Choose a "
                f"smaller batch size, or the device 'cpu'."
            ) from error

    def evaluate(self) -> HeldOutScores:
        """Measure the moving average of the weights, and keep it if it is the best so far."""
        average = self.trainer.average.items()
        weights = {key: value.to("cpu", copy=True) for key, value in average}
        scores = score_held_out(
            weights, self.spec, self.device, self.held_out, self.trainer.iteration
        )
        self.history.append(scores)
        if self.best is scores:
            self.best_weights = weights
        return scores

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors from which :meth:`load_state_dict` resumes."""
        return {
            "trainer": self.trainer.state_dict(),
            "generator": self.windows.generator.get_state(),
            "history": [
                {"iteration": scores.iteration, "counts": [list(x) for x in scores.counts]}
                for scores in self.history
            ],
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any], path: Path) -> None:
        """Resume from a state; raise CheckpointError if it is not complete."""
        try:
            self.trainer.load_state_dict(state["trainer"])
            self.windows.generator.set_state(state["generator"])
            self.history = [
                HeldOutScores(x["iteration"], tuple(Confusion(*counts) for counts in x["counts"]))
                for x in state["history"]
            ]
            self.best_weights = state["best_weights"]
        except Exception as error:  # values from outside can provoke anything
            raise CheckpointError(
                f"The training state {str(path)!r} is not complete: {error}. Start from the "
                f"beginning (restart), or choose another output."
            ) from error


def load_start(model: Model | None) -> tuple[UNet, ModelSpec, str]:
    """Return the network to start from, its model spec and the SHA-256 of its file.

    Raises OptionError, before anything is downloaded, if the model cannot be fine-tuned.
    """
    spec, file = resolve_model(model, None)
    if file is not None and file.suffix.lower() == ".onnx":
        raise OptionError(
            f"{str(file)!r} is an ONNX file, which cannot be fine-tuned. Pass the model from which "
            f"it was exported."
        )
    if spec is not None:
        _check_trainable(spec)
    network, spec, digest = obtain_network(spec, file)
    _check_trainable(spec)
    return network, spec, digest


def _check_trainable(spec: ModelSpec) -> None:
    """Raise OptionError unless the model has the scale rule "fov"."""
    if spec.scale != "fov":
        names = [known.name for known in REGISTRY.values() if known.scale == "fov"]
        raise OptionError(
            f"Model {spec.name!r} has the scale rule {spec.scale!r}; only models with the rule "
            f"'fov' can be fine-tuned: {', '.join(names)}, and files fine-tuned from it."
        )


def _check_options(options: Mapping[str, Any], name: str) -> None:
    """Raise OptionError for a value that :func:`train` does not allow."""
    for key in ("iterations", "evaluate_every", "patience", "batch_size"):
        check_integer(key, options[key])
    check_integer("seed", options["seed"], 0, allowed="an integer, 0 or more")
    for key in ("held_out", "rate"):
        if not (isinstance(options[key], (int, float)) and 0 < options[key] < 1):
            raise OptionError(f"{key} is {options[key]!r}; it must be a number between 0 and 1.")
    if name in tuple(REGISTRY):
        raise OptionError(
            f"name is {name!r}, which is the name of a model in the registry. Choose another."
        )


def _check_output(output: Path, card: Path, state_file: Path, *, force: bool) -> None:
    """Raise OutputError if the output cannot be written."""
    if not is_folder(output.parent):
        raise OutputError(
            f"{str(output)!r} cannot be written, because its folder does not exist. Create it."
        )
    # If a training was interrupted between writing the two files, the card is its own.
    may_overwrite_card = exists(state_file) and not exists(output)
    for path in (output, card):
        if exists(path) and not force and not (path == card and may_overwrite_card):
            raise OutputError(
                f"{str(path)!r} exists. Choose another output, or overwrite it (force)."
            )
