"""The widget "Correct retinal vessels": paint over what a model found, photograph by photograph."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from magicgui.widgets import Container, FileEdit, Label, PushButton
from napari.qt.threading import create_worker
from napari.utils.notifications import show_error
from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QSize, Qt, QTimer
from qtpy.QtWidgets import (
    QApplication,
    QDockWidget,
    QFrame,
    QListWidget,
    QScrollArea,
    QWidget,
)

from ..errors import VesselsegError
from ..images import decode
from .correcting import Painting, Session
from .fields import Cancelled, download_model, model_fields, row
from .fine_tuning import FineTuning
from .learning import Start
from .measuring import MeasuresButton, Shown, remove_layers

if TYPE_CHECKING:
    from napari.viewer import Viewer

    from ..result import Segmentation

_COLORS = {0: "transparent", 1: "cyan", 2: "orange", None: "transparent"}
_MARKS = {"done": "✓", "draft": "✎", "": "   "}
_KEYS = """\
<b>N</b> next, <b>Shift+N</b> previous, <b>D</b> done<br>
<b>2</b> brush, <b>1</b> eraser, <b>[</b> <b>]</b> size, <b>Ctrl+Z</b> undo<br>
<b>U</b> vessel (cyan) or do not know (orange)<br>
<b>V</b> hide or show, <b>Space</b> hold to move<br>
✓ done, ✎ draft"""
_SAVE_EVERY = 20_000  # ms


class CorrectVessels(Container):  # type: ignore[misc] # magicgui has no types where it is missing
    """Shows the photographs of a folder, one at a time, with vessels to paint over.

    What is painted is saved as a draft, every few seconds and before another photograph is shown,
    until the photograph is marked as done.
    """

    def __init__(self, napari_viewer: Viewer) -> None:
        super().__init__(labels=False)
        self.viewer = napari_viewer
        self.session: Session | None = None
        self.worker: Any = None  # segments the photographs of the session
        self.cancelled = threading.Event()  # set when the worker is no longer wanted
        self.photograph_layer: Any = None
        self.vessels_layer: Any = None  # the layer to paint in; None before there are vessels
        self.saved: Any = None  # what the files, or the model, have of it
        self.provenance: Any = None  # of the mask that is painted over
        self.folder = FileEdit(
            label="Folder", mode="d", nullable=True, tooltip="A folder of photographs"
        )
        self.model, self.model_file, self.bits, self.device = model_fields()
        self.list = QListWidget()
        self.status = Label(value="Choose a folder of photographs.")
        self.previous_button = PushButton(text="Previous")
        self.next_button = PushButton(text="Next")
        self.done_button = PushButton(
            text="Done",
            tooltip="Save the correction, from which a model can learn, and show the next one",
        )
        self.not_done_button = PushButton(
            text="Not done", tooltip="Make a draft of this correction again"
        )
        self.measures_button = MeasuresButton(napari_viewer, self.find_shown)
        self.fine_tuning = FineTuning(self.find_start, self.use_model)
        self.starts: dict[Path, str | Path] = {}  # model file -> what it was fine-tuned from
        self.parts = Container(
            widgets=[
                Container(
                    widgets=[self.folder, self.model, self.model_file, self.bits, self.device]
                ),
                self.status,
                row(self.previous_button, self.next_button),
                row(self.done_button, self.not_done_button),
                self.measures_button,
                Label(value=_KEYS),
                self.fine_tuning,
            ],
            labels=False,
        )
        self.parts.native.layout().insertWidget(1, self.list, 1)
        self.append(self.parts)
        self.margins = (0, 0, 0, 0)
        self.native.layout().addWidget(_Scrollable(self.parts.native))
        for widget in (
            self.previous_button, self.next_button, self.done_button, self.not_done_button,
            self.measures_button,
        ):  # fmt: skip
            widget.native.setFocusPolicy(Qt.FocusPolicy.NoFocus)  # keys are for the canvas
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.folder.changed.connect(self.open_folder)
        for field in (self.model, self.model_file, self.device):
            field.changed.connect(self.propose)
        self.bits.changed.connect(self.reopen)
        self.list.currentRowChanged.connect(self.select_row)
        self.previous_button.changed.connect(self.go_back)
        self.next_button.changed.connect(self.go_on)
        self.done_button.changed.connect(self.mark_done)
        self.not_done_button.changed.connect(self.mark_not_done)
        self.keys = {
            "n": self.go_on, "Shift-n": self.go_back, "d": self.mark_done, "u": self.swap_label,
        }  # fmt: skip
        for key, function in self.keys.items():
            self.viewer.bind_key(key, function, overwrite=True)
        self.timer = QTimer(self.native)
        self.timer.timeout.connect(self.save)
        self.timer.start(_SAVE_EVERY)
        self.wheel_filter = _EventFilter(_pass_wheel_on)
        for field in (self.model, self.bits, self.device, self.fine_tuning.iterations):
            field.native.installEventFilter(self.wheel_filter)
        self.hide_filter = _EventFilter(self.save_or_close)
        self.native.installEventFilter(self.hide_filter)
        QApplication.instance().aboutToQuit.connect(self.close_session)
        self.refresh()

    def open_folder(self) -> None:
        """Show the first photograph of the chosen folder, and segment all in a thread."""
        if not self.folder.value or not self.save():
            return
        try:
            session = Session(Path(self.folder.value))
        except (VesselsegError, FileNotFoundError) as error:
            show_error(str(error))
            return
        self.session = session
        self.fine_tuning.suggest(session.folder)
        self.reopen()

    def reopen(self) -> None:
        """Read and segment the photographs again."""
        if self.session is not None:
            self.propose()
            self.show_photograph(self.session.shown)

    def propose(self) -> None:
        """Segment the photographs that nobody has corrected, in a thread."""
        if self.session is None:
            return
        self.stop_worker()
        self.cancelled = threading.Event()
        load = partial(
            _load, self.chosen_model(), self.device.value, self.bits.value, self.cancelled
        )
        self.worker = create_worker(_run, self.session.propose(load))
        self.worker.yielded.connect(partial(self.show_proposal, self.cancelled))
        self.worker.returned.connect(partial(self.end_proposing, self.cancelled))
        self.worker.start()

    def stop_worker(self) -> None:
        """End the thread when it next looks."""
        self.cancelled.set()
        if self.worker is not None:
            self.worker.quit()

    def show_proposal(self, cancelled: threading.Event, photograph: Path) -> None:
        """Show what the model found, unless the user has painted meanwhile."""
        if cancelled.is_set() or self.session is None:
            return
        if photograph == self.session.shown and not self.is_painted():
            self.show_vessels()
        self.refresh()

    def end_proposing(self, cancelled: threading.Event, message: str) -> None:
        """Sort the photographs, or show the message that the thread ended with."""
        if cancelled.is_set() or self.session is None:
            return
        self.worker = None
        if message:
            show_error(message)
        self.session.sort()
        self.refresh()

    def show_photograph(self, photograph: Path) -> None:
        """Show another photograph, once what was painted is saved."""
        if self.session is None or not self.save():
            self.refresh()
            return
        self.session.shown = photograph
        self.measures_button.remove_layers()
        remove_layers(self.viewer, (self.vessels_layer, self.photograph_layer))
        self.vessels_layer = self.photograph_layer = None
        try:
            rgb = decode(photograph, bits=self.bits.value).rgb
        except (VesselsegError, FileNotFoundError) as error:
            show_error(str(error))
        else:
            self.photograph_layer = self.viewer.add_image(rgb, name=photograph.name)
            self.viewer.reset_view()
            self.show_vessels()
        self.refresh()

    def show_vessels(self) -> None:
        """Show what was painted on the photograph, or what the model found, to be painted over."""
        assert self.session is not None
        try:
            painting = self.session.load(self.session.shown)
        except (VesselsegError, FileNotFoundError) as error:
            show_error(str(error))
            return
        if painting is None or self.photograph_layer is None:
            return
        remove_layers(self.viewer, (self.vessels_layer,))
        self.provenance, self.saved = painting.provenance, painting.labels.copy()
        self.vessels_layer = self.viewer.add_labels(
            painting.labels,
            name=f"{self.photograph_layer.name} vessels",
            colormap=_COLORS,
            opacity=0.6,
        )
        self.vessels_layer.brush_size = 5
        self.vessels_layer.mode = "paint"

    def is_painted(self) -> bool:
        """Whether there is painting that is not saved."""
        return self.vessels_layer is not None and not np.array_equal(
            self.vessels_layer.data, self.saved
        )

    def save(self) -> bool:
        """Save what was painted; False, after a message, if that failed."""
        if self.session is None or not self.is_painted():
            return True
        return self.write(self.session.save)

    def write(self, function: Callable[[Path, Painting], None]) -> bool:
        """Write the painting with a method of the session; False, after a message, if it fails."""
        assert self.session is not None
        painting = Painting(self.vessels_layer.data.copy(), self.provenance)
        try:
            function(self.session.shown, painting)
        except (VesselsegError, OSError) as error:
            show_error(f"The painting is not saved: {error}")
            return False
        self.saved = painting.labels
        self.refresh()
        return True

    def select_row(self, row: int) -> None:
        """Show the photograph that was chosen in the list."""
        if self.session is not None and row >= 0:
            self.show_photograph(self.session.photographs[row])

    def go_on(self, _: Any = None) -> None:
        """Show the next photograph of the list."""
        self.go(1)

    def go_back(self, _: Any = None) -> None:
        """Show the previous photograph of the list."""
        self.go(-1)

    def go(self, step: int) -> None:
        """Show the photograph that is `step` places further down the list."""
        if self.session is not None and self.session.neighbour(step) != self.session.shown:
            self.show_photograph(self.session.neighbour(step))

    def mark_done(self, _: Any = None) -> None:
        """Save the correction, and show the next photograph that is not done."""
        if self.session is None or self.vessels_layer is None:
            return
        if self.write(self.session.mark_done):
            following = self.session.next_to_correct()
            if following is not None:
                self.show_photograph(following)

    def mark_not_done(self) -> None:
        """Make a draft of the correction."""
        if self.session is not None and self.vessels_layer is not None:
            self.write(self.session.mark_not_done)

    def swap_label(self, _: Any = None) -> None:
        """Paint "do not know" instead of vessels, or the other way round."""
        if self.vessels_layer is not None:
            self.vessels_layer.selected_label = 2 if self.vessels_layer.selected_label == 1 else 1
            self.vessels_layer.mode = "paint"

    def chosen_model(self) -> str | Path:
        """The model file if there is one, else the name of a model."""
        model: str | Path = self.model_file.value or self.model.value
        return model

    def find_start(self) -> Start | None:
        """What to fine-tune, once what was painted is saved; None after a message.

        A model that was fine-tuned here has learnt from some of the corrections, so its Dice on
        held-out ones would be too high: fine-tuning starts from what it was made of.
        """
        if self.session is None or len(self.session.corrections) < 2:
            show_error(
                "Fine-tuning needs at least two corrections, one to train on and one to measure "
                "on. Choose a folder, correct photographs, and press Done for each."
            )
            return None
        if not self.save():
            return None
        model = self.chosen_model()
        start = self.starts.get(Path(model), model)
        return Start(self.session.folder, start, self.device.value, self.bits.value)

    def use_model(self, output: Path, start: str | Path) -> None:
        """Segment with a new model from now on."""
        self.starts[output] = start
        self.model_file.value = output

    def find_shown(self) -> Shown | None:
        """The vessels as painted, for the button "Show measures"."""
        if self.vessels_layer is None:
            return None
        return Shown(self.photograph_layer, self.vessels_layer)

    def refresh(self) -> None:
        """Show the state of every photograph, and which buttons can be pressed."""
        if not isalive(self.native):
            return
        session = self.session
        is_done = session is not None and session.state(session.shown) == "done"
        self.previous_button.enabled = self.next_button.enabled = session is not None
        self.done_button.enabled = self.vessels_layer is not None
        self.not_done_button.enabled = is_done and self.vessels_layer is not None
        if session is None:
            return
        states = [session.state(path) for path in session.photographs]
        self.list.blockSignals(True)
        self.list.clear()
        for path, state in zip(session.photographs, states, strict=True):
            self.list.addItem(f"{_MARKS[state]} {path.name}")
        self.list.setCurrentRow(session.photographs.index(session.shown))
        self.list.blockSignals(False)
        to_do = sum(
            not state and path not in session.proposals
            for path, state in zip(session.photographs, states, strict=True)
        )
        text = f"{states.count('done')} of {len(states)} done"
        self.status.value = f"{text}; {to_do} still to be segmented" if to_do else text

    def save_or_close(self, event: QEvent) -> bool:
        """Save when the widget is hidden; end the session if its dock was closed for good."""
        is_hidden = event.type() in (QEvent.Type.Hide, QEvent.Type.ParentChange)
        if self.session is None or not is_hidden:
            return False
        parent = self.native.parent() if isalive(self.native) else None
        while parent is not None and not isinstance(parent, QDockWidget):
            parent = parent.parent()
        if parent is None:
            self.close_session()
        else:
            self.save()
        return False

    def close_session(self) -> None:
        """Save what was painted, and let nobody paint what would not be saved."""
        self.stop_worker()
        self.fine_tuning.cancel()
        self.save()
        self.session = None
        if self.vessels_layer is not None:
            self.vessels_layer.editable = False
            self.vessels_layer = None
        for key in self.keys:
            self.viewer.bind_key(key, None, overwrite=True)


class _EventFilter(QObject):  # type: ignore[misc] # as above
    """Calls a function with each event of a widget, which ends there if the function says so."""

    def __init__(self, function: Callable[[QEvent], bool]) -> None:
        super().__init__()
        self.function = function

    def eventFilter(self, _: Any, event: QEvent) -> bool:  # noqa: N802 # Qt's name
        return self.function(event)


def _pass_wheel_on(event: QEvent) -> bool:
    """Let the mouse wheel scroll the widget instead of changing the field under the pointer."""
    is_wheel: bool = event.type() == QEvent.Type.Wheel
    if is_wheel:
        event.ignore()
    return is_wheel


class _Scrollable(QScrollArea):  # type: ignore[misc] # as above
    """Holds a widget that may be taller than the screen."""

    def __init__(self, widget: QWidget) -> None:
        super().__init__()
        self.setWidget(widget)
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)

    def minimumSizeHint(self) -> QSize:  # noqa: N802 # Qt's name
        """As wide as what it holds with napari's style, and room for the bar."""
        width = self.widget().minimumSizeHint().width()
        bar = self.verticalScrollBar().sizeHint().width()
        return QSize(width + bar, super().minimumSizeHint().height())


def _load(
    model: str | Path, device: str, bits: int | None, cancelled: threading.Event
) -> Callable[[Path], Segmentation]:
    """Load a model. Runs in a thread."""
    from ..api import load_model  # loads PyTorch

    download_model(model, cancelled)
    return partial(load_model(model, device=device), bits=bits)


def _run(proposing: Any) -> Any:
    """Yield what a session proposes; return a message for the user, "" if all went well."""
    try:
        yield from proposing
    except (VesselsegError, FileNotFoundError) as error:
        return str(error)
    except Cancelled:
        pass
    return ""
