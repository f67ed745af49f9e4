"""The network as an ONNX graph: for files that other programs run, and for OpenVINO.

Written operator by operator, in the order of :mod:`vesselseg.unet`, it needs only the ``onnx``
package, has the same bytes with every version of PyTorch, and takes windows of any size, even in
the PSPNet head, whose adaptive pooling is not an ONNX operator.

Source: ONNX operator specifications, opset 17, https://onnx.ai/onnx/operators/.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from .._version import __version__
from ..errors import OutputError, require
from ..files import whole_file
from ..spec import ModelSpec
from ..unet import POOL_SCALES, FCNHead, PSPHead, UNet

_OPSET, _IR_VERSION = 17, 8  # of 2022, so that older runtimes read the files
_MAX_BYTES = 2**31 - 2**20  # a protocol buffer holds at most 2 GiB

_DESCRIPTION = """\
Segments retinal vessels in windows of a fundus photograph. Input "image": uint8 RGB, 0 to 255, \
(N, 3, H, W); normalisation is part of the graph. Output "logits": float32 (N, 2, H, W), \
background and vessel. H and W must be divisible by "size_divisor" in the metadata. Windows of \
"crop" pixels start every "stride" pixels, and the last one ends at the border; average their \
logits. "spec" in the metadata has everything else. Research software, not a medical device."""

_SIGNATURE = "vesselseg (uint8[N, 3, H, W] image) => (float[N, 2, H, W] logits) {}"

# As F.interpolate(mode="bilinear", align_corners=False).
_BILINEAR = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}


def write(
    path: str | os.PathLike[str], model: Any, spec: ModelSpec, weights_sha256: str, precision: str
) -> None:
    """Write an ``onnx.ModelProto`` with its model spec as a file, whole or not at all."""
    onnx = require("onnx", "onnx")
    fields = ("crop", "stride", "size_divisor", "scale", "license", "data_terms")
    metadata = {
        "vesselseg": __version__,
        "model": spec.name,
        **{field: str(getattr(spec, field)) for field in fields},
        "precision": precision,
        "weights_sha256": weights_sha256,
        # The whole model spec, for programs that can parse JSON.
        "spec": json.dumps(spec.to_dict()),
    }
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
    size = sum(value.nbytes for value in network.state_dict().values())
    if size > _MAX_BYTES and not weights_as_inputs:
        raise OutputError(
            f"The network has {size / 1e9:.1f} GB of weights; an ONNX file holds at most 2 GiB."
        )
    graph = _Graph(onnx, network, weights_as_inputs)
    modules: Any = network  # PyTorch does not type what a ModuleList contains
    x = graph.add("Cast", "image", to=onnx.TensorProto.FLOAT)
    for operator, values in (("Sub", spec.mean), ("Div", spec.std)):
        x = graph.add(operator, x, graph.constant(np.reshape(values, (1, 3, 1, 1)), np.float32))
    skips = []
    for stage, block in enumerate(modules.encoder):
        if stage:
            x = graph.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = graph.units(x, *block)
        skips.append(x)
    skips.pop()
    double = graph.constant([1, 1, 2, 2], np.float32)
    for up in reversed(modules.decoder):
        x = graph.add("Resize", graph.units(x, up.reduce), "", double, **_BILINEAR)
        x = graph.add("Concat", skips.pop(), graph.add("Relu", x), axis=1)
        x = graph.units(x, *up.block)
    head: Any = network.head
    if isinstance(head, FCNHead):
        x = graph.units(x, head.unit)
    else:
        size = graph.add("Shape", x, start=2, end=4)  # H, W
        if isinstance(head, PSPHead):
            maps = [x]
            for bins, unit in zip(POOL_SCALES, head.pyramid, strict=True):
                pooled = graph.units(graph.adaptive_pool(x, size, bins), unit)
                maps.append(graph.resize(pooled, size))
        else:
            pooled = graph.units(graph.add("GlobalAveragePool", x), head.pool)
            maps = [graph.resize(pooled, size)]
            maps += [graph.units(x, unit) for unit in head.atrous]
        x = graph.units(graph.add("Concat", *maps, axis=1), head.bottleneck)
    graph.convolution(x, head.classifier)
    graph.proto.node[-1].output[0] = "logits"
    return onnx.helper.make_model(
        graph.proto,
        opset_imports=[onnx.helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
        producer_name="vesselseg",
        producer_version=__version__,
        doc_string=_DESCRIPTION,
    )


class _Graph:
    """An ONNX graph that grows: each method adds nodes or constants and names their result."""

    def __init__(self, onnx: Any, network: UNet, weights_as_inputs: bool) -> None:
        self.onnx = onnx
        self.weights_as_inputs = weights_as_inputs
        self.names = {module: name for name, module in network.named_modules()}
        self.proto = onnx.parser.parse_graph(_SIGNATURE)
        self.proto.doc_string = _DESCRIPTION

    def constant(self, values: Any, dtype: type = np.int64, name: str = "") -> str:
        """A constant."""
        name = name or f"constant_{len(self.proto.initializer)}"
        constant = self.onnx.numpy_helper.from_array(np.asarray(values, dtype), name)
        self.proto.initializer.append(constant)
        return name

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """A node with one output, which has the name of the node."""
        name = name or f"{operator}_{len(self.proto.node)}"
        node = self.onnx.helper.make_node(operator, inputs, [name], name=name, **attributes)
        self.proto.node.append(node)
        return name

    def convolution(self, x: str, module: Any) -> str:
        """A ``Conv2d``."""
        name = self.names[module]
        weights = {f"{name}.weight": module.weight, f"{name}.bias": module.bias}
        for key, values in weights.items():
            if self.weights_as_inputs:
                kind = self.onnx.TensorProto.FLOAT
                value = self.onnx.helper.make_tensor_value_info(key, kind, values.shape)
                self.proto.input.append(value)
            else:
                self.constant(values.detach(), np.float32, key)
        pads = 2 * module.padding  # top, left, bottom, right
        attributes = {"kernel_shape": module.kernel_size, "dilations": module.dilation}
        return self.add("Conv", x, *weights, name=name, pads=pads, **attributes)

    def units(self, x: str, *units: Any) -> str:
        """One ``ConvUnit`` after another: a convolution and, usually, a ReLU."""
        for unit in units:
            assert unit.norm is None, "the network must be folded"
            x = self.convolution(x, unit.conv)
            if unit.relu:
                x = self.add("Relu", x)
        return x

    def resize(self, x: str, size: str) -> str:
        """Bilinear, (N, C, h, w) -> (N, C, H, W), where `size` is the value H, W."""
        shape = self.add("Concat", self.add("Shape", x, end=2), size, axis=0)
        return self.add("Resize", x, "", "", shape, **_BILINEAR)

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
