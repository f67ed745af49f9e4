"""The window network as an ONNX file, for programs that run it without PyTorch.

The graph is written operator by operator, as :mod:`vesselseg.unet` computes it. That needs
nothing but the ``onnx`` package, gives the same bytes on every version of PyTorch, and leaves
height and width free also in the PSPNet head, whose pooling has no operator in ONNX.

Source: ONNX operator specifications, opset 17, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._version import __version__
from ..errors import OutputError
from ..files import whole_file
from ..spec import ModelSpec
from ..unet import POOL_SCALES, ASPPHead, ConvUnit, FCNHead, PSPHead, UNet
from . import require

OPSET, IR_VERSION = 17, 8  # of 2022, so that older runtimes read the files
_MOST_BYTES = 2**31 - 2**20  # a protocol buffer ends at 2 GiB

_DESCRIPTION = """\
Retinal vessels in windows of a photograph. "image": uint8 RGB, 0 to 255, (N, 3, H, W); \
normalisation is part of the graph. "logits": float32 (N, 2, H, W), background and vessel. H and W \
have to be multiples of the metadata's "multiple". Windows of "crop" pixels start every "stride" \
pixels, the last one ends at the border; their logits are averaged. "spec" has everything else. \
Research software, not a medical device."""


def export(
    path: str | os.PathLike[str], network: UNet, spec: ModelSpec, weights_sha256: str
) -> None:
    """Write a folded network as an ONNX file; whole or not at all.

    Parameters
    ----------
    path : path
        Usually ends in ".onnx", by which :func:`vesselseg.load_model` knows it.
    network : UNet
        Folded, float32, on the CPU.
    spec : ModelSpec
        Its mean and std become part of the graph, all of it part of the metadata.
    weights_sha256 : str
        Digest of the file that the weights came from.

    Raises
    ------
    MissingExtraError
        If the ``onnx`` package is not installed.
    OutputError
        If the file cannot be written, or would be larger than the format allows.
    """
    onnx = require("onnx", "onnx")
    size = sum(value.nbytes for value in network.state_dict().values())
    if size > _MOST_BYTES:
        raise OutputError(f"{size / 1e9:.1f} GB of weights do not fit into one ONNX file: 2 GiB.")
    model = build(onnx, network, spec, weights_sha256)
    onnx.checker.check_model(model, full_check=True)
    content = model.SerializeToString(deterministic=True)
    with whole_file(path) as part:
        part.write_bytes(content)


def build(onnx: Any, network: UNet, spec: ModelSpec, weights_sha256: str) -> Any:
    """The network as an ``onnx.ModelProto``, with its record as metadata."""
    graph = _Graph(onnx, network)
    image = graph.add("Cast", "image", to=onnx.TensorProto.FLOAT)
    image = graph.add("Sub", image, graph.constant("mean", _per_channel(spec.mean)))
    image = graph.add("Div", image, graph.constant("std", _per_channel(spec.std)))
    _head(graph, network, _unet(graph, network, image))
    assert graph.unused == set(), f"left out: {sorted(graph.unused)}"

    info, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    body = onnx.helper.make_graph(
        graph.nodes,
        "vesselseg",
        [info("image", kinds.UINT8, ["N", 3, "H", "W"])],
        [info("logits", kinds.FLOAT, ["N", 2, "H", "W"])],
        initializer=graph.constants,
        doc_string=_DESCRIPTION,
    )
    model = onnx.helper.make_model(
        body,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="vesselseg",
        producer_version=__version__,
        doc_string=_DESCRIPTION,
    )
    onnx.helper.set_model_props(model, metadata(spec, network.multiple, weights_sha256))
    return model


def metadata(spec: ModelSpec, multiple: int, weights_sha256: str) -> dict[str, str]:
    """What the file says of itself; ``record`` is the whole record as JSON.

    What every program needs stands by itself, too, for those without a JSON parser at hand.
    """
    return {
        "vesselseg": __version__,
        "model": spec.name,
        "crop": str(spec.crop),
        "stride": str(spec.stride),
        "multiple": str(multiple),
        "scale": str(spec.scale),
        "license": spec.license,
        "data_terms": spec.data_terms,
        "weights_sha256": weights_sha256,
        "spec": json.dumps(spec.to_dict()),
    }


class _Graph:
    """Nodes and constants in the making; a value is known by its name."""

    def __init__(self, onnx: Any, network: UNet) -> None:
        self._onnx = onnx
        self._names = {module: name for name, module in network.named_modules()}
        self.unused = set(network.state_dict())
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, values: NDArray[Any]) -> str:
        self.constants.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Append a node; the name of its result."""
        name = f"{operator}_{len(self.nodes)}"
        output = output or name
        make = self._onnx.helper.make_node
        self.nodes.append(make(operator, inputs, [output], name=name, **attributes))
        return output

    def convolution(self, module: Any, x: str, output: str = "") -> str:
        """A ``Conv2d``, with its weight and bias as constants of the state dict's names."""
        operands = []
        for part in ("weight", "bias"):
            key = f"{self._names[module]}.{part}"
            values = getattr(module, part).detach().contiguous().numpy()
            operands.append(self.constant(key, values))
            self.unused.remove(key)
        return self.add(
            "Conv",
            x,
            *operands,
            output=output,
            kernel_shape=module.kernel_size,
            pads=2 * module.padding,  # top, left, bottom, right
            dilations=module.dilation,
        )

    def unit(self, unit: ConvUnit, x: str) -> str:
        assert unit.norm is None, "a folded network is needed"
        x = self.convolution(unit.conv, x)
        return self.add("Relu", x) if unit.relu else x


def _unet(graph: _Graph, network: UNet, x: str) -> str:
    skips = []
    # list[Any]: PyTorch does not say what a ModuleList holds.
    for stage, block in enumerate(list[Any](network.encoder)):
        if stage:
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        for unit in block:
            x = graph.unit(unit, x)
        skips.append(x)
    skips.pop()
    double = graph.constant("double", np.array([1, 1, 2, 2], np.float32))
    for up in reversed(list[Any](network.decoder)):
        x = graph.unit(up.reduce, x)
        x = graph.add("Resize", x, "", double, **_BILINEAR)
        x = graph.add("Concat", skips.pop(), graph.add("Relu", x), axis=1)
        for unit in up.block:
            x = graph.unit(unit, x)
    return x


def _head(graph: _Graph, network: UNet, x: str) -> None:
    head = network.head
    if isinstance(head, FCNHead):
        x = graph.unit(head.unit, x)
    else:
        size = graph.add("Shape", x, start=2, end=4)  # H, W
        if isinstance(head, PSPHead):
            maps, pyramid = [x], list[Any](head.pyramid)
            for bins, unit in zip(POOL_SCALES, pyramid, strict=True):
                pooled = graph.unit(unit, _pool(graph, x, size, bins))
                maps.append(_enlarge(graph, pooled, size))
        else:
            assert isinstance(head, ASPPHead)
            pooled = graph.unit(head.pool, graph.add("GlobalAveragePool", x))
            maps = [_enlarge(graph, pooled, size)]
            maps += [graph.unit(unit, x) for unit in list[Any](head.atrous)]
        x = graph.unit(head.bottleneck, graph.add("Concat", *maps, axis=1))
    graph.convolution(head.classifier, x, output="logits")


# Without corners aligned, as ``F.interpolate(mode="bilinear", align_corners=False)``.
_BILINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


def _enlarge(graph: _Graph, x: str, size: str) -> str:
    """(N, C, h, w) -> (N, C, H, W), bilinear, where `size` holds H and W."""
    whole = graph.add("Concat", graph.add("Shape", x, end=2), size, axis=0)
    return graph.add("Resize", x, "", "", whole, **_BILINEAR)


def _pool(graph: _Graph, x: str, size: str, bins: int) -> str:
    """Adaptive average pooling, (N, C, H, W) -> (N, C, bins, bins).

    Bin i of a side of length L is the mean from floor(i L / bins) to ceil((i + 1) L / bins),
    as ``F.adaptive_avg_pool2d`` has it. Its two sides are two products with matrices of means.
    """
    if bins == 1:
        return graph.add("GlobalAveragePool", x)
    rows, columns = (_means(graph, size, side, bins) for side in (0, 1))
    x = graph.add("MatMul", rows, x)  # (bins, H) (N, C, H, W) -> (N, C, bins, W)
    return graph.add("MatMul", x, graph.add("Transpose", columns, perm=[1, 0]))


def _means(graph: _Graph, size: str, side: int, bins: int) -> str:
    """The matrix (bins, L) whose row i has 1 / (length of bin i) inside bin i."""
    label = f"bins{bins}.{side}"

    def number(name: str, values: Any) -> str:
        return graph.constant(f"{label}.{name}", np.array(values, np.int64))

    length = graph.add("Gather", size, number("side", side))  # L
    first, count = number("first", np.arange(bins)[:, None]), number("count", bins)
    one, up = number("one", 1), number("up", bins - 1)
    # Division of whole numbers rounds down; ceil(a / b) is floor((a + b - 1) / b).
    start = graph.add("Div", graph.add("Mul", first, length), count)  # (bins, 1)
    end = graph.add("Mul", graph.add("Add", first, one), length)
    end = graph.add("Div", graph.add("Add", end, up), count)
    pixels = graph.add("Range", number("zero", 0), length, one)  # (L,)
    before, inside = graph.add("Less", pixels, start), graph.add("Less", pixels, end)
    inside = graph.add("And", inside, graph.add("Not", before))  # (bins, L)
    kind = graph._onnx.TensorProto.FLOAT
    inside = graph.add("Cast", inside, to=kind)
    return graph.add("Div", inside, graph.add("Cast", graph.add("Sub", end, start), to=kind))


def _per_channel(values: tuple[float, float, float]) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, 3, 1, 1)
