"""The candidates: ways to compute the same mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cases
import flops
import numpy as np
import reference
import torch
from cases import Case
from numpy.typing import NDArray
from torch import Tensor

from vesselseg import Segmenter, load_model, weights
from vesselseg.backends import onednn
from vesselseg.backends.openvino import load_openvino
from vesselseg.backends.pytorch import (
    DTYPES,
    TorchBackend,
    choose_batch_size,
    copy_network,
    native_precisions,
)
from vesselseg.sliding import slide

BASE = "mmsegmentation"  # the candidate that the others are compared with

Run = Callable[[], NDArray[np.bool_]]


class LeftOutError(Exception):
    """The candidate cannot be measured in this case or on this machine; the message says why."""


@dataclass(frozen=True)
class Candidate:
    """A candidate, ready to be timed.

    Parameters
    ----------
    precision : str
    run : callable
        () -> mask, bool (H, W), of the photograph's size.
    flop : float
        Operations of one run, in convolutions.
    comparable : bool
        Whether the mask is one of the photograph.
    """

    precision: str
    run: Run
    flop: float
    comparable: bool = True


def batch_size(case: Case, precision: str = "float32") -> int:
    """Windows per batch: vesselseg's choice, which the other candidates use as well."""
    return choose_batch_size(None, case.spec, torch.device(case.device), precision)


def cost(case: Case, precision: str = "float32") -> flops.Cost:
    """Cost of the image of the case."""
    return flops.cost(case.spec, *case.scaled.shape[:2], batch_size(case, precision))


def executed(case: Case, precision: str) -> float:
    """Operations that vesselseg executes: on what it computes of the image, in its windows."""
    size, shrink = batch_size(case, precision), case.plan.scale == "fov"
    return flops.cost(case.spec, *case.computed, size, shrink=shrink).executed


def mmsegmentation(case: Case) -> Candidate:
    """``slide_inference``, one window at a time, as published."""
    model = theirs(case)

    def run() -> NDArray[np.bool_]:
        return case.mask(torch.diff(reference.slide(model, case.scaled, case.spec), dim=0))

    return Candidate("float32", run, cost(case).nominal)


def mmsegmentation_autocast(case: Case) -> Candidate:
    """The same in float16, as far as PyTorch's autocast chooses it."""
    if case.device == "cpu":
        raise LeftOutError("float16 is for GPUs")
    each = mmsegmentation(case)

    def run() -> NDArray[np.bool_]:
        with torch.autocast(case.device, dtype=torch.float16):
            return each.run()

    return Candidate("float16", run, each.flop)


def monai(case: Case) -> Candidate:
    """MONAI's sliding window around mmsegmentation's network."""
    from monai.inferers.utils import sliding_window_inference

    model, spec = theirs(case), case.spec

    def run() -> NDArray[np.bool_]:
        with torch.no_grad():
            logits = sliding_window_inference(
                reference.normalise(case.scaled, spec).to(case.device),
                roi_size=(spec.crop, spec.crop),
                sw_batch_size=batch_size(case),
                predictor=partial(model, mode="tensor"),
                overlap=overlap(spec.crop, spec.stride),
                mode="constant",
            )
        return case.mask(torch.diff(logits[0], dim=0))

    # It uses the same windows (tests/test_benchmarks.py) and does not fill up the last batch.
    return Candidate("float32", run, cost(case).nominal)


def overlap(crop: int, stride: int) -> float:
    """The overlap that makes MONAI use this stride."""
    return 1 - stride / crop


def onnxruntime(case: Case) -> Candidate:
    """An exported file in ``load_model``."""
    need_cpu(case)
    model = load_model(exported(case), device="cpu")
    return Candidate("float32", call(model, case), executed(case, "float32"))


def openvino(precision: str, case: Case) -> Candidate:
    """OpenVINO on the exported file, compiled for one shape, on the windows of the spec."""
    need_cpu(case)
    need_native(precision, case)
    spec, size = case.spec, batch_size(case, precision)
    core = load_openvino().Core()
    graph = core.read_model(exported(case))
    graph.reshape([size, 3, *flops.window_size(spec, *case.scaled.shape[:2])])
    settings = {
        # Without this OpenVINO uses bfloat16 if the processor has it.
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }
    request = core.compile_model(graph, "CPU", settings).create_infer_request()

    def network(windows: Tensor) -> Tensor:
        logits = request.infer({0: windows.contiguous().numpy()}, share_inputs=True)[0]
        return torch.diff(torch.from_numpy(logits), dim=1)

    def run() -> NDArray[np.bool_]:
        image = torch.from_numpy(case.scaled).permute(2, 0, 1)
        ((_, logit),) = slide([(None, image)], network, crop=spec.crop, stride=spec.stride,
                              batch_size=size, size_divisor=spec.size_divisor)  # fmt: skip
        return case.mask(logit)

    return Candidate(precision, run, cost(case, precision).executed)


def vesselseg(precision: str, case: Case) -> Candidate:
    """``Segmenter.__call__``, with the field of view and the resampling."""
    need_native(precision, case)
    model = case.load(precision)
    return Candidate(precision, call(model, case), executed(case, precision))


def vesselseg_without(part: str, precision: str, case: Case) -> Candidate:
    """The same without Winograd, or without any packed weights, and so without Winograd too."""
    need_cpu(case)
    need_native(precision, case)
    if not onednn.available():
        raise LeftOutError("weights are packed on x86 processors with AVX only")
    network = weights.load_network(case.weights, case.spec)
    backend = TorchBackend(network, case.spec, case.device, precision)
    if part == "winograd":
        backend.placed = onednn.pack(network, DTYPES[precision], winograd=False)
    else:
        backend.placed = copy_network(network, backend.device, DTYPES[precision])
    model = Segmenter(backend, case.spec, sha256="")
    return Candidate(precision, call(model, case), executed(case, precision))


def vesselseg_noise(case: Case) -> Candidate:
    """vesselseg on random pixels, to see whether the time depends on the image."""
    if case.plan.scale != "native":
        raise LeftOutError("random pixels have no field of view, which this model's scale needs")
    model, pixels = case.load("float32"), cases.noise(case.plan.size)

    def run() -> NDArray[np.bool_]:
        return model(pixels, scale="native").mask

    return Candidate("float32", run, executed(case, "float32"), comparable=False)


def vesselseg_openvino(precision: str, case: Case) -> Candidate:
    """``load_model(..., backend="openvino")``."""
    need_cpu(case)
    model = case.load(precision, backend="openvino")
    return Candidate(precision, call(model, case), executed(case, precision))


# Each raises ImportError or LeftOutError if it cannot be measured.
CANDIDATES: dict[str, Callable[[Case], Candidate]] = {
    BASE: mmsegmentation,
    "mmsegmentation-autocast": mmsegmentation_autocast,
    "monai": monai,
    "onnxruntime": onnxruntime,
    "openvino-float32": partial(openvino, "float32"),
    "openvino-bfloat16": partial(openvino, "bfloat16"),
    "vesselseg-float32": partial(vesselseg, "float32"),
    "vesselseg-bfloat16": partial(vesselseg, "bfloat16"),
    "vesselseg-float16": partial(vesselseg, "float16"),
    "vesselseg-float32-no-winograd": partial(vesselseg_without, "winograd", "float32"),
    "vesselseg-bfloat16-no-winograd": partial(vesselseg_without, "winograd", "bfloat16"),
    "vesselseg-float32-no-packing": partial(vesselseg_without, "packing", "float32"),
    "vesselseg-bfloat16-no-packing": partial(vesselseg_without, "packing", "bfloat16"),
    "vesselseg-noise": vesselseg_noise,
    "vesselseg-openvino-float32": partial(vesselseg_openvino, "float32"),
    "vesselseg-openvino-bfloat16": partial(vesselseg_openvino, "bfloat16"),
    "vesselseg-openvino-int8": partial(vesselseg_openvino, "int8"),
}


def theirs(case: Case) -> Any:
    if case.theirs is None:
        raise LeftOutError(case.missing)
    return case.theirs


def call(model: Segmenter, case: Case) -> Run:
    def run() -> NDArray[np.bool_]:
        return model(case.pixels, scale=case.plan.scale).mask

    return run


def exported(case: Case) -> Path:
    file = case.folder / "exported.onnx"
    if not file.exists():
        case.load("float32").export(file)
    return file


def need_native(precision: str, case: Case) -> None:
    if precision not in native_precisions(torch.device(case.device)):
        raise LeftOutError(f"this device has no instructions for {precision}")


def need_cpu(case: Case) -> None:
    if case.device != "cpu":
        raise LeftOutError("runs on the CPU only")
