"""Ways to the same mask: each is a function that takes nothing and returns it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cases
import flops
import numpy as np
import reference
import torch
from cases import Case
from numpy.typing import NDArray
from torch import Tensor

from vesselseg import load_model
from vesselseg.backends.pytorch import choose_batch_size, native_precisions
from vesselseg.sliding import slide

BASE = "mmsegmentation"  # what all are compared with


class LeftOutError(Exception):
    """This candidate cannot be measured on this case or this machine; the message says why."""


@dataclass(frozen=True)
class Candidate:
    """One way, ready to be timed.

    Parameters
    ----------
    name, precision : str
    run : callable
        () -> mask, bool (H, W), of the photograph's size.
    flop : float
        What one run executes, in convolutions.
    comparable : bool
        Whether its mask is one of the photograph.
    """

    name: str
    precision: str
    run: Callable[[], NDArray[np.bool_]]
    flop: float
    comparable: bool = True


def batch_size(case: Case, precision: str = "float32") -> int:
    """Windows in a batch: vesselseg's own choice, also for those that leave it open."""
    return choose_batch_size(None, case.spec, torch.device(case.device), precision)


def cost(case: Case, precision: str = "float32") -> flops.Cost:
    """Cost of the case's image."""
    return flops.cost(case.spec, *case.scaled.shape[:2], batch_size(case, precision))


def mmsegmentation(case: Case) -> Candidate:
    """``slide_inference``, one window at a time, as published."""
    model = _theirs(case)

    def run() -> NDArray[np.bool_]:
        return case.mask(torch.diff(reference.slide(model, case.scaled, case.spec), dim=0))

    return Candidate(BASE, "float32", run, cost(case).nominal)


def monai(case: Case) -> Candidate:
    """MONAI's sliding window around mmsegmentation's network."""
    from monai.inferers.utils import sliding_window_inference

    model, spec = _theirs(case), case.spec

    def run() -> NDArray[np.bool_]:
        with torch.no_grad():
            logits = sliding_window_inference(
                reference.normalise(case.scaled, spec).to(case.device),
                roi_size=(spec.crop, spec.crop),
                sw_batch_size=batch_size(case),
                predictor=functools.partial(model, mode="tensor"),
                overlap=overlap(spec.crop, spec.stride),
                mode="constant",
            )
        return case.mask(torch.diff(logits[0], dim=0))

    # Its grid is the same (tests/test_benchmarks.py), and it fills no batch up.
    return Candidate("monai", "float32", run, cost(case).nominal)


def overlap(crop: int, stride: int) -> float:
    """The share of a window that MONAI asks for in place of a stride."""
    return 1 - stride / crop


def vesselseg(precision: str, case: Case) -> Candidate:
    """``Segmenter.__call__``, whose field of view and resampling are timed, too."""
    _check_native(precision, case)
    model = case.load(precision)
    name = f"vesselseg-{precision}"
    return Candidate(name, precision, _call(model, case), cost(case, precision).executed)


def vesselseg_noise(case: Case) -> Candidate:
    """The same on random pixels: whether the time depends on what an image shows."""
    if case.plan.scale != "native":
        raise LeftOutError("random pixels have no field of view, which this model's scale needs")
    model, pixels = case.load("float32"), cases.noise(case.plan.size)

    def run() -> NDArray[np.bool_]:
        return model(pixels, scale="native").mask

    flop = cost(case).executed
    return Candidate("vesselseg-noise", "float32", run, flop, comparable=False)


def onnxruntime(case: Case) -> Candidate:
    """An exported file behind vesselseg's own Segmenter."""
    _check_cpu(case)
    model = load_model(_exported(case), device="cpu")
    return Candidate("onnxruntime", "float32", _call(model, case), cost(case).executed)


def openvino(precision: str, case: Case) -> Candidate:
    """OpenVINO on the exported file, for batches of one shape, with vesselseg's windows."""
    _check_cpu(case)
    _check_native(precision, case)
    # Without this module its own stand-in for it is taken, and nothing is sent to anybody.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as ov

    spec, size = case.spec, batch_size(case, precision)
    core = ov.Core()
    graph = core.read_model(_exported(case))
    graph.reshape([size, 3, *flops.window_size(spec, *case.scaled.shape[:2])])
    compiled = core.compile_model(
        graph,
        "CPU",
        {
            # Left alone it would take bfloat16 where the processor has it.
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        },
    )
    request = compiled.create_infer_request()

    def net(windows: Tensor) -> Tensor:
        logits = request.infer({0: windows.contiguous().numpy()}, share_inputs=True)[0]
        return torch.diff(torch.from_numpy(logits), dim=1)

    def run() -> NDArray[np.bool_]:
        image = torch.from_numpy(case.scaled).permute(2, 0, 1)
        ((_, logit),) = slide([(None, image)], net, crop=spec.crop, stride=spec.stride,
                              batch_size=size, size_divisor=spec.size_divisor)  # fmt: skip
        return case.mask(logit)

    return Candidate(f"openvino-{precision}", precision, run, cost(case, precision).executed)


def vesselseg_openvino(precision: str, case: Case) -> Candidate:
    """``load_model(..., backend="openvino")``."""
    _check_cpu(case)
    if precision == "bfloat16":
        _check_native(precision, case)
    model = case.load(precision, backend="openvino")
    name = f"vesselseg-openvino-{precision}"
    return Candidate(name, precision, _call(model, case), cost(case, precision).executed)


CANDIDATES: dict[str, Callable[[Case], Candidate]] = {
    BASE: mmsegmentation,
    "monai": monai,
    "onnxruntime": onnxruntime,
    **{f"openvino-{p}": functools.partial(openvino, p) for p in ("float32", "bfloat16")},
    **{
        f"vesselseg-{p}": functools.partial(vesselseg, p)
        for p in ("float32", "bfloat16", "float16")
    },
    "vesselseg-noise": vesselseg_noise,
    **{
        f"vesselseg-openvino-{p}": functools.partial(vesselseg_openvino, p)
        for p in ("float32", "bfloat16", "int8")
    },
}
"""What can be chosen, by name; ImportError or LeftOutError is raised for what is not there."""


def _theirs(case: Case) -> Any:
    if case.theirs is None:
        raise LeftOutError(case.missing)
    return case.theirs


def _call(model: Any, case: Case) -> Callable[[], NDArray[np.bool_]]:
    def run() -> NDArray[np.bool_]:
        mask: NDArray[np.bool_] = model(case.pixels, scale=case.plan.scale).mask
        return mask

    return run


def _exported(case: Case) -> str:
    file = case.folder / "exported.onnx"
    if not file.exists():
        case.load("float32").export(file)
    return str(file)


def _check_native(precision: str, case: Case) -> None:
    if precision not in native_precisions(torch.device(case.device)):
        raise LeftOutError(f"this processor has no instructions for {precision}")


def _check_cpu(case: Case) -> None:
    if case.device != "cpu":
        raise LeftOutError("runs on the CPU")
