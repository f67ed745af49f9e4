"""The plugin for napari (extra ``napari``).

::

    from vesselseg.napari import segment_to_layers

    for data in segment_to_layers(viewer.layers["eye"]):
        viewer.add_layer(napari.layers.Layer.create(*data))

``napari.yaml`` says what napari shows: a widget under Layers > Segment and a sample photograph.
Nothing else in the library imports this package.
"""

from __future__ import annotations

from .layers import segment_to_layers

__all__ = ["segment_to_layers"]
