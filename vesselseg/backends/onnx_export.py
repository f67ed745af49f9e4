"""The network as an ONNX graph: for files that other programs run, and for OpenVINO.

The graph is written operator by operator, in the order of :mod:`vesselseg.unet`. This needs only
the ``onnx`` package, gives the same bytes with every version of PyTorch, and works for windows of
any size, even in the PSPNet head, whose adaptive pooling is not an ONNX operator.

Source: ONNX operator specifications, opset 17, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from .._version import __version__
from ..errors import OutputError
from ..files import whole_file
from ..spec import ModelSpec
from ..unet import POOL_SCALES, ASPPHead, ConvUnit, FCNHead, PSPHead, UNet
from . import require

OPSET, IR_VERSION = 17, 8  # of 2022, so that older runtimes read the files
MAX_BYTES = 2**31 - 2**20  # a protocol buffer holds at most 2 GiB

DESCRIPTION = """\
Segments retinal vessels in windows of a fundus photograph. Input "image": uint8 RGB, 0 to 255, \
(N, 3, H, W); normalisation is part of the graph. Output "logits": float32 (N, 2, H, W), \
background and vessel. H and W must be divisible by "size_divisor" in the metadata. Windows of \
"crop" pixels start every "stride" pixels, and the last one ends at the border; average their \
logits. "spec" in the metadata has everything else. Research software, not a medical device."""

# As F.interpolate(mode="bilinear", align_corners=False).
BILINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


def export(
    path: str | os.PathLike[str], network: UNet, spec: ModelSpec, weights_sha256: str
) -> None:
    """Write a folded float32 network and its model spec as an ONNX file, whole or not at all.

    Raises
    ------
    MissingExtraError
        If the ``onnx`` package is not installed.
    OutputError
        If the file cannot be written, or would be larger than the format allows.
    """
    onnx = require("onnx", "onnx")
    size = sum(value.nbytes for value in network.state_dict().values())
    if size > MAX_BYTES:
        raise OutputError(
            f"The network has {size / 1e9:.1f} GB of weights; an ONNX file holds at most 2 GiB."
        )
    model = build(network, spec)
    metadata = {
        "vesselseg": __version__,
        "model": spec.name,
        "crop": str(spec.crop),
        "stride": str(spec.stride),
        "size_divisor": str(spec.size_divisor),
        "scale": str(spec.scale),
        "license": spec.license,
        "data_terms": spec.data_terms,
        "weights_sha256": weights_sha256,
        # The whole model spec, for programs that can parse JSON.
        "spec": json.dumps(spec.to_dict()),
    }
    model.producer_version = __version__
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    with whole_file(path) as part:
        part.write_bytes(model.SerializeToString(deterministic=True))


def build(network: UNet, spec: ModelSpec, *, weights_as_inputs: bool = False) -> Any:
    """Return a folded float32 network as an ``onnx.ModelProto`` without metadata.

    It maps "image", uint8 RGB (N, 3, H, W), to "logits", float32 (N, 2, H, W). Convolutions and
    their weights have the names of their modules and parameters in `network`. With
    `weights_as_inputs` the weights are inputs of those names, not copied into the model.
    """
    onnx = require("onnx", "onnx")
    graph = Graph(onnx, network, weights_as_inputs)
    x = graph.add("Cast", "image", to=onnx.TensorProto.FLOAT)
    for operator, values in (("Sub", spec.mean), ("Div", spec.std)):
        x = graph.add(operator, x, graph.constant(np.reshape(values, (1, 3, 1, 1)), np.float32))
    x = add_encoder_and_decoder(graph, network, x)
    add_head(graph, network, x)

    describe = onnx.helper.make_tensor_value_info
    body = onnx.helper.make_graph(
        graph.nodes,
        "vesselseg",
        [describe("image", onnx.TensorProto.UINT8, ["N", 3, "H", "W"]), *graph.weights],
        [describe("logits", onnx.TensorProto.FLOAT, ["N", 2, "H", "W"])],
        initializer=graph.constants,
        doc_string=DESCRIPTION,
    )
    return onnx.helper.make_model(
        body,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="vesselseg",
        doc_string=DESCRIPTION,
    )


class Graph:
    """The nodes and constants of an ONNX graph; each method adds some and names their result."""

    def __init__(self, onnx: Any, network: UNet, weights_as_inputs: bool) -> None:
        self.onnx = onnx
        self.weights_as_inputs = weights_as_inputs
        self.names = {module: name for name, module in network.named_modules()}
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.weights: list[Any] = []  # those that are inputs

    def constant(self, values: Any, dtype: type = np.int64, name: str = "") -> str:
        """A constant."""
        name = name or f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(
        self, operator: str, *inputs: str, name: str = "", output: str = "", **attributes: Any
    ) -> str:
        """A node with one output, which has the name of the node unless another one is given."""
        name = name or f"{operator}_{len(self.nodes)}"
        output = output or name
        make_node = self.onnx.helper.make_node
        self.nodes.append(make_node(operator, inputs, [output], name=name, **attributes))
        return output

    def weight(self, key: str, values: Any) -> str:
        """A weight or bias."""
        if not self.weights_as_inputs:
            return self.constant(values.detach(), np.float32, key)
        describe, kind = self.onnx.helper.make_tensor_value_info, self.onnx.TensorProto.FLOAT
        self.weights.append(describe(key, kind, values.shape))
        return key

    def convolution(self, module: Any, x: str, output: str = "") -> str:
        """A ``Conv2d``."""
        name = self.names[module]
        weight = self.weight(f"{name}.weight", module.weight)
        bias = self.weight(f"{name}.bias", module.bias)
        pads = 2 * module.padding  # top, left, bottom, right
        attributes = {"kernel_shape": module.kernel_size, "dilations": module.dilation}
        return self.add("Conv", x, weight, bias, name=name, output=output, pads=pads, **attributes)

    def unit(self, unit: ConvUnit, x: str) -> str:
        """A ``ConvUnit``: a convolution and, usually, a ReLU."""
        assert unit.norm is None, "the network must be folded"
        x = self.convolution(unit.conv, x)
        return self.add("Relu", x) if unit.relu else x

    def resize(self, x: str, size: str) -> str:
        """Bilinear, (N, C, h, w) -> (N, C, H, W), where `size` is the value H, W."""
        shape = self.add("Concat", self.add("Shape", x, end=2), size, axis=0)
        return self.add("Resize", x, "", "", shape, **BILINEAR)

    def adaptive_pool(self, x: str, size: str, bins: int) -> str:
        """``F.adaptive_avg_pool2d``: (N, C, H, W) -> (N, C, bins, bins).

        A product with one matrix of means for each side: (bins, H) (H, W) (W, bins).
        """
        rows = self.bin_means(size, 0, bins)
        columns = self.add("Transpose", self.bin_means(size, 1, bins), perm=[1, 0])
        return self.add("MatMul", self.add("MatMul", rows, x), columns)

    def bin_means(self, size: str, axis: int, bins: int) -> str:
        """The matrix (bins, L) that averages a side of L pixels over each bin.

        Bin i is made of the pixels from floor(i L / bins) to, but without, ceil((i + 1) L / bins):
        of each pixel p with i L < (p + 1) bins and p bins < (i + 1) L.
        """
        count = self.constant(bins)
        length = self.add("Gather", size, self.constant(axis))  # L
        first = self.add("Mul", length, self.constant(np.arange(bins)[:, None]))  # i L
        pixel = self.add("Range", self.constant(0), self.add("Mul", length, count), count)  # p bins
        not_before = self.add("Less", first, self.add("Add", pixel, count))
        not_after = self.add("Less", pixel, self.add("Add", first, length))
        inside = self.add("And", not_before, not_after)
        inside = self.add("Cast", inside, to=self.onnx.TensorProto.FLOAT)
        return self.add("Div", inside, self.add("ReduceSum", inside, self.constant([1])))


def add_encoder_and_decoder(graph: Graph, network: UNet, x: str) -> str:
    """Normalised RGB (N, 3, H, W) -> the last map of the decoder (N, width, H, W)."""
    skips = []
    # list[Any]: PyTorch does not type the items of a ModuleList.
    for stage, block in enumerate(list[Any](network.encoder)):
        if stage:
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        for unit in block:
            x = graph.unit(unit, x)
        skips.append(x)
    skips.pop()
    double = graph.constant([1, 1, 2, 2], np.float32)
    for up in reversed(list[Any](network.decoder)):
        x = graph.unit(up.reduce, x)
        x = graph.add("Relu", graph.add("Resize", x, "", double, **BILINEAR))
        x = graph.add("Concat", skips.pop(), x, axis=1)
        for unit in up.block:
            x = graph.unit(unit, x)
    return x


def add_head(graph: Graph, network: UNet, x: str) -> None:
    """The last map of the decoder -> "logits"."""
    head = network.head
    if isinstance(head, FCNHead):
        x = graph.unit(head.unit, x)
    else:
        size = graph.add("Shape", x, start=2, end=4)  # H, W
        if isinstance(head, PSPHead):
            maps = [x]
            for bins, unit in zip(POOL_SCALES, list[Any](head.pyramid), strict=True):
                pooled = graph.unit(unit, graph.adaptive_pool(x, size, bins))
                maps.append(graph.resize(pooled, size))
        else:
            assert isinstance(head, ASPPHead)
            pooled = graph.unit(head.pool, graph.add("GlobalAveragePool", x))
            maps = [graph.resize(pooled, size)]
            maps += [graph.unit(unit, x) for unit in list[Any](head.atrous)]
        x = graph.unit(head.bottleneck, graph.add("Concat", *maps, axis=1))
    graph.convolution(head.classifier, x, output="logits")
