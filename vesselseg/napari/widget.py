"""The widget under Layers > Segment: a photograph and a model in, a mask and a probability out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import ComboBox, Container, FloatSlider, ProgressBar, PushButton
from napari.layers import Image, Layer
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.compat import isalive
from superqt.utils import ensure_main_thread

from ..errors import VesselsegError
from .fields import Cancelled, download_model, model_fields, row
from .layers import LayerData, measure_features, photograph_of, to_layers
from .measuring import MeasuresButton, Shown

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from ..result import Segmentation

_SCALES = (
    ("as the model was trained", None),
    ("fit to its data set's size", "fit"),
    ("by the field of view", "fov"),
    ("unchanged", "native"),
)


class SegmentVessels(Container):  # type: ignore[misc] # magicgui has no types where it is missing
    """Segments the photograph in an Image layer, in a thread of its own.

    Moving the threshold afterwards redraws the last mask; the model does not run again.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.cancelled = threading.Event()  # of the last run
        self.result: Segmentation | None = None  # shown last, in `mask_layer`
        self.mask_layer: Any = None
        self.photograph_layer: Any = None  # that `result` is of
        self.measuring = False
        self.photograph = ComboBox(
            label="Photograph",
            choices=self.find_photographs,
            tooltip="An Image layer that holds one photograph: grey, RGB or RGBA",
        )
        self.model, self.model_file, self.bits, self.device = model_fields()
        self.scale = ComboBox(
            label="Scale",
            choices=_SCALES,
            tooltip="How to resize the photograph before the network sees it",
        )
        self.threshold = FloatSlider(
            label="Threshold",
            value=0.5,
            min=0,
            max=1,
            step=0.01,
            tooltip="Pixels with a higher probability are vessel. Moving it redraws the last mask",
        )
        self.start_button = PushButton(text="Segment")
        self.cancel_button = PushButton(
            text="Cancel",
            enabled=False,
            tooltip="Ends a download, or drops the result; a later download resumes",
        )
        self.measures_button = MeasuresButton(napari_viewer, self.find_shown)
        self.progress = ProgressBar(visible=False)
        self.extend(
            [
                self.photograph,
                self.model,
                self.model_file,
                self.scale,
                self.bits,
                self.device,
                self.threshold,
                row(self.start_button, self.cancel_button),
                self.measures_button,
                self.progress,
            ]
        )
        self.start_button.changed.connect(self.start)
        self.cancel_button.changed.connect(self.cancel)
        self.threshold.changed.connect(self.redraw)

    def find_photographs(self, _: Any) -> list[Image]:
        """The Image layers of the viewer, except for probabilities that vesselseg made."""
        return [
            layer
            for layer in self.viewer.layers
            if isinstance(layer, Image) and "vesselseg" not in layer.metadata
        ]

    def start(self) -> None:
        """Segment the chosen photograph in a thread."""
        layer = self.photograph.value
        if layer is None:
            show_error(
                "There is no photograph. Drop a file on the viewer, or choose "
                "File > Open Sample > Fundus photograph (vesselseg)."
            )
            return
        self.cancelled = threading.Event()
        self.show_running(True)
        worker = create_worker(
            find_vessels,
            layer,
            self.model_file.value or self.model.value,
            self.cancelled,
            ensure_main_thread(partial(self.show_download, self.cancelled)),
            scale=self.scale.value,
            threshold=self.threshold.value,
            bits=self.bits.value,
            device=self.device.value,
        )
        worker.returned.connect(partial(self.show_outcome, self.cancelled, layer))
        worker.finished.connect(partial(self.end, self.cancelled))
        worker.start()

    def cancel(self) -> None:
        """Give the buttons back at once; the thread ends when it next looks."""
        self.cancelled.set()
        self.show_running(False)

    def is_wanted(self, cancelled: threading.Event) -> bool:
        """Whether a run was not cancelled, which closing the widget does too."""
        if not isalive(self.native):
            cancelled.set()
        return not cancelled.is_set()

    def end(self, cancelled: threading.Event) -> None:
        """Give the buttons back after a run."""
        if self.is_wanted(cancelled):
            self.show_running(False)

    def show_running(self, running: bool) -> None:
        """Show that a run is in progress, or that none is."""
        self.start_button.enabled = not running
        self.cancel_button.enabled = running
        self.progress.value = self.progress.max = 0  # busy, until a download has a size
        self.progress.visible = running

    def show_download(self, cancelled: threading.Event, received: int, total: int | None) -> None:
        """Show how much of the weights has arrived."""
        if not self.is_wanted(cancelled) or not total:
            return
        if received < total:
            self.progress.max = 100
            self.progress.value = 100 * received // total
        else:
            self.progress.value = self.progress.max = 0  # busy: the model runs

    def show_outcome(
        self,
        cancelled: threading.Event,
        photograph_layer: Image,
        outcome: tuple[Segmentation, list[LayerData]] | str,
    ) -> None:
        """Add the layers of a run, or show the message that it ended with."""
        if not self.is_wanted(cancelled):
            return
        if isinstance(outcome, str):
            show_error(outcome)
            return
        self.result, layers = outcome
        self.photograph_layer = photograph_layer
        for data in layers:
            self.mask_layer = self.viewer.add_layer(Layer.create(*data))
        self.redraw(self.threshold.value)  # it may have moved meanwhile

    def find_shown(self) -> Shown | None:
        """The vessels shown last, for the button "Show measures"."""
        if self.result is None or self.mask_layer not in self.viewer.layers:
            return None
        return Shown(self.photograph_layer, self.mask_layer, self.result.field_of_view)

    def redraw(self, threshold: float) -> None:
        """Draw the mask of another threshold, and measure it in a thread."""
        if self.result is None or self.mask_layer not in self.viewer.layers:
            return
        if threshold == self.result.provenance["threshold"]:
            return
        self.result = self.result.at_threshold(threshold)
        self.mask_layer.data = self.result.mask.astype(np.uint8)
        self.mask_layer.metadata = {"vesselseg": self.result.provenance}
        if not self.measuring:
            self.measure(self.result)

    def measure(self, result: Segmentation) -> None:
        """Measure a result in a thread, one at a time."""
        self.measuring = True
        worker = create_worker(measure_features, result)
        worker.returned.connect(partial(self.show_features, result))
        worker.finished.connect(partial(self.end_measuring, result))
        worker.start()

    def show_features(self, measured: Segmentation, features: Any) -> None:
        """Put measures into the mask's layer, unless the mask has changed meanwhile."""
        if measured is self.result:
            self.mask_layer.features = features

    def end_measuring(self, result: Segmentation) -> None:
        """Measure again if the mask has changed meanwhile."""
        self.measuring = False
        if self.result is not None and self.result is not result:
            self.measure(self.result)


def find_vessels(
    layer: Image,
    model: str | Path,
    cancelled: threading.Event,
    show_download: Callable[[int, int | None], Any],
    **options: Any,
) -> tuple[Segmentation, list[LayerData]] | str:
    """The result and its layers, or a message for the user. Runs in a thread."""
    from ..api import segment  # loads PyTorch

    try:
        photograph = photograph_of(layer)
        download_model(model, cancelled, show_download)
        result = segment(photograph, model=model, **options)
        return result, to_layers(result, layer)
    except (VesselsegError, FileNotFoundError) as error:
        return str(error)
    except Cancelled:
        return "Cancelled."
