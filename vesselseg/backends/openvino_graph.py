"""The window network as an OpenVINO model.

The graph is written operator by operator, as :mod:`vesselseg.unet` computes it. PyTorch's tracer
is not needed, which warns and patches modules, nor OpenVINO's converter, which reports its use.

Source: OpenVINO operation sets, https://docs.openvino.ai/2026/documentation/openvino-ir-format/.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..spec import ModelSpec
from ..unet import POOL_SCALES, ASPPHead, ConvUnit, FCNHead, PSPHead, UNet

CLASSIFIER = "head.classifier"


def build(openvino: Any, network: UNet, spec: ModelSpec) -> Any:
    """A folded network as an ``openvino.Model``.

    Parameters
    ----------
    openvino : module
    network : UNet
        Folded, float32, on the CPU. The model keeps its weights in their place: it is to be
        compiled while the network is there.
    spec : ModelSpec
        Its mean and std become part of the graph.

    Returns
    -------
    openvino.Model
        "image", uint8 RGB (N, H, W, 3), as windows lie in memory -> "scores", float32
        (N, 2, H, W): the logit of the background, and by how much that of vessels is greater.
        H and W are free multiples of ``network.multiple``. Convolutions have the names of the
        modules that they come from.

    Notes
    -----
    In bfloat16 OpenVINO rounds what the last convolution gives to 8 binary digits. Of two logits
    the difference would be lost where they are near, which is where it decides; so the network
    gives the difference itself, whose sign survives any rounding.
    """
    graph = _Graph(openvino.opset13, network)
    op = graph.op
    image = op.parameter([-1, -1, -1, 3], openvino.Type.u8, name="image")
    x = op.transpose(image, op.constant(np.array([0, 3, 1, 2])))
    x = op.convert(x, "f32")
    x = op.subtract(x, op.constant(_per_channel(spec.mean)))
    x = op.divide(x, op.constant(_per_channel(spec.std)))
    scores = _head(graph, network, _unet(graph, network, x))
    scores.output(0).set_names({"scores"})
    image.output(0).set_names({"image"})
    assert graph.unused == set(), f"left out: {sorted(graph.unused)}"
    return openvino.Model([op.result(scores)], [image], "vesselseg")


class _Graph:
    """Operators in the making; those of convolutions take their weights from the modules."""

    def __init__(self, op: Any, network: UNet) -> None:
        self.op = op
        self._names = {module: name for name, module in network.named_modules()}
        self.unused = set(network.state_dict())

    def convolution(self, module: Any, x: Any) -> Any:
        """A ``Conv2d``; named as its module."""
        name = self._names[module]
        weight, bias = (self._values(name, module, part) for part in ("weight", "bias"))
        if name == CLASSIFIER:
            weight, bias = (np.stack([v[0], v[1] - v[0]]) for v in (weight, bias))
        x = self.op.convolution(
            x,
            self.op.constant(weight, shared_memory=True),
            strides=[1, 1],
            pads_begin=module.padding,
            pads_end=module.padding,
            dilations=module.dilation,
            name=name,
        )
        return self.op.add(x, self.op.constant(bias.reshape(1, -1, 1, 1), shared_memory=True))

    def _values(self, name: str, module: Any, part: str) -> NDArray[np.float32]:
        self.unused.remove(f"{name}.{part}")
        values: NDArray[np.float32] = getattr(module, part).detach().contiguous().numpy()
        return values

    def unit(self, unit: ConvUnit, x: Any) -> Any:
        assert unit.norm is None, "a folded network is needed"
        x = self.convolution(unit.conv, x)
        return self.op.relu(x) if unit.relu else x

    def enlarge(self, x: Any, sizes: Any, mode: str) -> Any:
        """Bilinear, corners not aligned; `sizes` are scales or the height and width."""
        return self.op.interpolate(
            x,
            sizes,
            mode="linear_onnx",
            shape_calculation_mode=mode,
            coordinate_transformation_mode="half_pixel",
            axes=np.array([2, 3]),
        )


def _unet(graph: _Graph, network: UNet, x: Any) -> Any:
    op, skips = graph.op, []
    # list[Any]: PyTorch does not say what a ModuleList holds.
    for stage, block in enumerate(list[Any](network.encoder)):
        if stage:
            x = op.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
        for unit in block:
            x = graph.unit(unit, x)
        skips.append(x)
    skips.pop()
    double = op.constant(np.array([2, 2], np.float32))
    for up in reversed(list[Any](network.decoder)):
        x = graph.unit(up.reduce, x)
        x = op.relu(graph.enlarge(x, double, "scales"))
        x = op.concat([skips.pop(), x], 1)
        for unit in up.block:
            x = graph.unit(unit, x)
    return x


def _head(graph: _Graph, network: UNet, x: Any) -> Any:
    op, head = graph.op, network.head
    if isinstance(head, FCNHead):
        x = graph.unit(head.unit, x)
    else:
        both = op.constant(np.array([2, 3]))
        size = op.gather(op.shape_of(x), both, op.constant(np.array(0)))  # H, W
        if isinstance(head, PSPHead):
            maps, pyramid = [x], list[Any](head.pyramid)
            for bins, unit in zip(POOL_SCALES, pyramid, strict=True):
                pooled = op.adaptive_avg_pool(x, op.constant(np.array([bins, bins])))
                maps.append(graph.enlarge(graph.unit(unit, pooled), size, "sizes"))
        else:
            assert isinstance(head, ASPPHead)
            pooled = graph.unit(head.pool, op.reduce_mean(x, both, keep_dims=True))
            maps = [graph.enlarge(pooled, size, "sizes")]
            maps += [graph.unit(unit, x) for unit in list[Any](head.atrous)]
        x = graph.unit(head.bottleneck, op.concat(maps, 1))
    return graph.convolution(head.classifier, x)


def _per_channel(values: tuple[float, float, float]) -> NDArray[np.float32]:
    return np.array(values, np.float32).reshape(1, 3, 1, 1)
