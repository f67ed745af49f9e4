"""The words that choose what runs a network: devices, precisions and backends."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, get_args

BACKENDS = {
    "torch": ".pytorch.TorchBackend",
    "onnxruntime": ".onnxruntime.OnnxBackend",
    "openvino": ".openvino.OpenVinoBackend",
}
"""Name -> module and class in vesselseg.backends. Of several that run a model, the first is the
default."""

BackendName: TypeAlias = Literal["torch", "onnxruntime", "openvino"]  # for type checkers
Precision: TypeAlias = Literal["float32", "bfloat16", "float16", "int8", "auto"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DEVICES = ("auto", "cpu", "cuda", "mps")

_PRECISION_SYNONYMS: dict[str, Precision] = {
    **{precision: precision for precision in PRECISIONS},
    "fp32": "float32",
    "float": "float32",
    "single": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
}


def canonical_precision(precision: Any) -> Any:
    """The word for a precision that has others, such as fp16; anything else as it is."""
    word = str(precision).lower().removeprefix("torch.")  # a torch.dtype, too
    return _PRECISION_SYNONYMS.get(word, precision)


def canonical_device(device: Any) -> Any:
    """The word for a device in small letters, "cuda" for "gpu"; anything else as it is."""
    if not isinstance(device, str):
        return device
    kind, colon, index = device.lower().partition(":")
    return ("cuda" if kind == "gpu" else kind) + colon + index
