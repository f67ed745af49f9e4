"""The button "Show measures": layers of what is measured in the vessels that a viewer shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from magicgui.widgets import PushButton
from napari.layers import Image, Labels, Layer
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.compat import isalive

from ..errors import VesselsegError
from ..images import field_of_view
from ..measures import measure
from ..metrics import Mask
from .layers import LayerData, measures_to_layers, photograph_of

if TYPE_CHECKING:
    from napari.viewer import Viewer


class Shown(NamedTuple):
    """A photograph's layer, the vessels in it (label 1), and its field of view if it is known."""

    photograph: Image
    vessels: Labels
    field_of_view: Mask | None = None


class MeasuresButton(PushButton):  # type: ignore[misc] # magicgui has no types where it is missing
    """Measures the vessels that `find_shown` returns, as painted, in a thread.

    The new layers take the place of those that the button added before. There are none if the
    vessels' layer was removed meanwhile, as it is when another photograph is shown.
    """

    def __init__(self, viewer: Viewer, find_shown: Callable[[], Shown | None]) -> None:
        super().__init__(
            text="Show measures",
            tooltip="Add layers of the centrelines, branch points and end points (extra measure)",
        )
        self.viewer = viewer
        self.find_shown = find_shown
        self.layers: list[Any] = []
        self.changed.connect(self.start)

    def start(self) -> None:
        """Measure in a thread."""
        shown = self.find_shown()
        if shown is None:
            show_error("There are no vessels to measure. Segment a photograph first.")
            return
        self.enabled = False
        vessels = shown.vessels.data == 1
        worker = create_worker(_measure, vessels, shown.field_of_view, shown.photograph)
        worker.returned.connect(partial(self.show_outcome, shown.vessels))
        worker.finished.connect(self.end)
        worker.start()

    def end(self) -> None:
        """Give the button back."""
        if isalive(self.native):
            self.enabled = True

    def show_outcome(self, measured: Labels, outcome: list[LayerData] | str) -> None:
        """Replace the layers, or show the message that measuring ended with."""
        if not isalive(self.native) or measured not in self.viewer.layers:
            return
        if isinstance(outcome, str):
            show_error(outcome)
            return
        self.remove_layers()
        active = self.viewer.layers.selection.active
        self.layers = [self.viewer.add_layer(Layer.create(*data)) for data in outcome]
        self.viewer.layers.selection.active = active  # painting goes on

    def remove_layers(self) -> None:
        """Remove the layers that the button added."""
        remove_layers(self.viewer, self.layers)
        self.layers = []


def remove_layers(viewer: Viewer, layers: Iterable[Any]) -> None:
    """Remove layers, as far as the user has left them."""
    for layer in layers:
        if layer in viewer.layers:
            viewer.layers.remove(layer)


def _measure(vessels: Mask, inside: Mask | None, photograph: Image) -> list[LayerData] | str:
    """The layers of what is measured, or a message for the user."""
    try:
        if inside is None:
            inside = field_of_view(photograph_of(photograph))
        return measures_to_layers(measure(vessels, fov=inside), photograph)
    except VesselsegError as error:
        return str(error)
