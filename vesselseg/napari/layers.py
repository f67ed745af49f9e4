"""Layers in, layers out, without a viewer: photographs, vessels, and the sample photograph."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, MissingExtraError
from ..images import decode
from ..measures.drawing import ColorBy, color_segments

if TYPE_CHECKING:
    from napari.layers import Image

    from ..api import Model
    from ..measures import Measures
    from ..result import Segmentation
    from ..segmenter import Segmenter
    from ..spec import Scale

LayerData: TypeAlias = "tuple[Any, dict[str, Any], str]"
"""Data, options and type of a layer, as ``napari.layers.Layer.create`` takes them."""

PHOTOGRAPH = Path(__file__).parents[1] / "embedded" / "fundus.jpg"
_PLACEMENT = ("scale", "translate", "rotate", "shear", "units", "axis_labels")


def segment_to_layers(
    layer: Image,
    *,
    model: Model | Segmenter | None = None,
    scale: Scale | None = None,
    threshold: float = 0.5,
    bits: int | None = None,
    device: str = "auto",
) -> list[LayerData]:
    """Segment the photograph in an Image layer.

    Parameters
    ----------
    layer : napari.layers.Image
        (H, W) grey, or with ``rgb=True`` (H, W, 3) RGB or (H, W, 4) RGBA. uint8, uint16, or
        float in [0, 1]. Of a multiscale layer, the full resolution is used.
    model : str, path, ModelSpec, Segmenter or None
        A name (:func:`vesselseg.list_models`), a model spec, a model file, a loaded model, or
        None for the model in the package.
    scale : {"fit", "native", "fov"}, float or None
        How to bring the photograph to the network's scale; see :func:`vesselseg.segment`. None
        uses the model's own rule.
    threshold : float
        Pixels with a higher probability are vessel, in [0, 1].
    bits : int, optional
        Significant bits in 16-bit images, for example 12 if values run from 0 to 4095.
    device : str
        "auto" (CUDA, then MPS, then the CPU), "cpu", "cuda", "cuda:1" or "mps".

    Returns
    -------
    list of (data, options, type)
        For ``napari.layers.Layer.create``, at the place of `layer`: the probability, an Image of
        float32 (H, W) in [0, 1], hidden at first; and the mask, Labels of uint8 (H, W) with
        vessels as 1. Both have the provenance in ``metadata["vesselseg"]``. The mask's
        ``features`` hold what :func:`measure_features` returns.

    Raises
    ------
    ImageError
        If the layer does not hold one photograph of an accepted type.
    VesselsegError
        If the model cannot be loaded; see :func:`vesselseg.load_model`.
    OptionError
        If another argument is outside what is described here.

    Examples
    --------
    >>> import numpy as np
    >>> from napari.layers import Image
    >>> from vesselseg.napari import segment_to_layers
    >>> layer = Image(np.zeros((64, 64, 3), np.uint8), name="eye", scale=(0.01, 0.01))
    >>> for data, options, kind in segment_to_layers(layer, device="cpu"):
    ...     print(kind, options["name"], data.dtype, options["scale"])
    image eye probability float32 [0.01 0.01]
    labels eye vessels uint8 [0.01 0.01]
    """
    from ..api import segment  # loads PyTorch

    photograph = photograph_of(layer)
    result = segment(
        photograph, model=model, scale=scale, threshold=threshold, bits=bits, device=device
    )
    return to_layers(result, layer)


def photograph_of(layer: Image) -> NDArray[Any]:
    """The photograph in an Image layer, as :func:`vesselseg.segment` takes it, or ImageError."""
    data = layer.data[0] if layer.multiscale else layer.data
    if len(data.shape) != (3 if layer.rgb else 2):
        raise ImageError(
            f"The layer {layer.name!r} has data of shape {tuple(data.shape)}. It must hold one "
            f"photograph: (H, W) grey, or colours as (H, W, 3) RGB or (H, W, 4) RGBA. Open its "
            f"file or, in Python, add its colours: viewer.add_image(photograph, rgb=True)."
        )
    return np.asarray(data)


def to_layers(result: Segmentation, layer: Image) -> list[LayerData]:
    """The layers that show a result at the place of its photograph, the topmost one last."""
    placement = _placement(layer)
    metadata = {"vesselseg": result.provenance}
    probability = {
        "name": f"{layer.name} probability",
        "contrast_limits": (0.0, 1.0),
        "colormap": "magma",
        "visible": False,
        "metadata": metadata,
        **placement,
    }
    mask = {
        "name": f"{layer.name} vessels",
        "colormap": {1: "cyan", None: "transparent"},
        "metadata": metadata,
        "features": measure_features(result),
        **placement,
    }
    return [
        (result.probability, probability, "image"),
        (result.mask.astype(np.uint8), mask, "labels"),
    ]


def measures_to_layers(
    measures: Measures, layer: Image, *, color_by: ColorBy = "width"
) -> list[LayerData]:
    """What was measured on the photograph in an Image layer.

    Parameters
    ----------
    measures : Measures
        Of the photograph in `layer`: of a result, or as :func:`vesselseg.measure` returns them.
    layer : napari.layers.Image
        Where the photograph lies.
    color_by : {"width", "segment"}
        Colour each centreline by its median width, or so that segments that meet differ.

    Returns
    -------
    list of (data, options, type)
        For ``napari.layers.Layer.create``, at the place of `layer`: the field of view, Labels that
        are hidden at first; the centrelines, Shapes with the columns of ``measures.segments`` as
        ``features``; and the end points and branch points, Points. What there is none of is left
        out.

    Raises
    ------
    OptionError
        If `color_by` is outside what is described here.

    Examples
    --------
    >>> import numpy as np, vesselseg
    >>> from napari.layers import Image
    >>> from vesselseg.napari import measures_to_layers
    >>> mask = np.zeros((200, 200), bool)
    >>> mask[96:104, 20:180] = True
    >>> layer = Image(np.zeros((200, 200, 3), np.uint8), name="eye")
    >>> for data, options, kind in measures_to_layers(vesselseg.measure(mask), layer):
    ...     print(kind, options["name"], len(data))
    labels eye field of view 200
    shapes eye centrelines 1
    points eye end points 2
    """
    import pandas

    placement = _placement(layer)
    fov = {"name": f"{layer.name} field of view", "opacity": 0.3, "visible": False, **placement}
    layers: list[LayerData] = [(measures.field_of_view.astype(np.uint8), fov, "labels")]
    if measures.centrelines:
        lines = {
            "name": f"{layer.name} centrelines",
            "shape_type": "path",
            "edge_width": 1,
            "edge_color": np.array(color_segments(measures, color_by)) / 255,
            "features": pandas.DataFrame(measures.segments),
            **placement,
        }
        layers.append((measures.centrelines, lines, "shapes"))
    for name, places, symbol, color in (
        ("end points", measures.end_positions, "square", "black"),
        ("branch points", measures.branch_positions, "disc", "white"),
    ):
        if len(places):
            points = {
                "name": f"{layer.name} {name}",
                "symbol": symbol,
                "size": 5,
                "face_color": color,
                "border_color": "white",
                **placement,
            }
            layers.append((places, points, "points"))
    return layers


def _placement(layer: Image) -> dict[str, Any]:
    """The options that put another layer where this one is."""
    placement = {name: getattr(layer, name) for name in _PLACEMENT}
    placement["affine"] = layer.affine.affine_matrix.copy()  # the layer's own would be shared
    return placement


def measure_features(result: Segmentation) -> Any:
    """The features of a mask's Labels layer: one row, for the label 1, as a pandas.DataFrame.

    ``vessel_fraction`` is the share of the field of view that is vessel, None if there is no field
    of view; the extra ``measure`` adds the other columns.
    """
    import pandas

    measures: dict[str, Any] = {}
    with contextlib.suppress(MissingExtraError):  # the fraction needs no other package
        measures = result.measure().to_dict()
    return pandas.json_normalize(
        {"index": 1, "vessel_fraction": result.vessel_fraction(), **measures}
    )


def fundus_sample() -> list[LayerData]:
    """The photograph in the package, for File > Open Sample."""
    return [(decode(PHOTOGRAPH).rgb, {"name": "fundus"}, "image")]
