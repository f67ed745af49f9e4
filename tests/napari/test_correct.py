"""The widget with which a user corrects a folder of photographs; at the end, in a real window."""

import os

import numpy as np
import pytest
from support.models import tiny_weights

import vesselseg
from vesselseg.corrections import find_corrections, read_correction

pytest.importorskip("napari.layers", reason="needs the extra napari")
pytest.importorskip("pytestqt", reason="needs the extra napari-test")

from napari.utils.notifications import notification_manager
from qtpy.compat import isalive
from superqt.utils import WorkerBase

from vesselseg.napari import fine_tuning
from vesselseg.napari.correct import CorrectVessels


@pytest.fixture
def widget(viewer, model_file, qtbot):  # noqa: ARG001 # qtbot starts Qt
    widget = CorrectVessels(viewer)
    widget.show()
    widget.model_file.value = model_file
    widget.device.value = "cpu"
    notification_manager.records.clear()
    yield widget
    if isalive(widget.native):
        widget.native.deleteLater()
    WorkerBase.await_workers()


@pytest.fixture
def opened(widget, folder, qtbot):
    """The widget with a folder, all of it segmented, at the top of the list."""
    widget.folder.value = folder
    qtbot.waitUntil(lambda: widget.worker is None, timeout=60_000)
    widget.select_row(0)
    return widget


def shown(widget):
    return widget.session.shown.name


def listed(widget):
    return [widget.list.item(row).text() for row in range(widget.list.count())]


def messages():
    return [str(record.message) for record in notification_manager.records]


def paint(widget, label=1):
    widget.vessels_layer.data[10:20, 5:30] = label


class TestOpening:
    def test_shows_a_photograph_and_its_vessels(self, opened, viewer, folder, model_file):
        expected = vesselseg.segment(folder / shown(opened), model=model_file, device="cpu")
        name = shown(opened)
        assert [layer.name for layer in viewer.layers] == [name, f"{name} vessels"]
        assert np.array_equal(opened.vessels_layer.data, expected.mask)
        assert opened.vessels_layer.mode == "paint"
        assert len(listed(opened)) == 3
        assert opened.status.value == "0 of 3 done"
        assert messages() == []

    def test_a_folder_without_photographs(self, widget, viewer, tmp_path):
        widget.folder.value = tmp_path
        assert "no photograph" in messages()[0]
        assert len(viewer.layers) == 0

    def test_a_model_that_cannot_be_loaded(self, widget, folder, qtbot):
        widget.model_file.value = folder / "missing.pth"
        widget.folder.value = folder
        qtbot.waitUntil(lambda: bool(messages()), timeout=60_000)
        assert "missing.pth" in messages()[0]

    def test_a_damaged_photograph_can_be_passed(self, widget, folder, qtbot):
        (folder / "a.png").write_bytes(b"damaged")
        widget.folder.value = folder
        assert "a.png" in messages()[0]
        qtbot.waitUntil(lambda: widget.worker is None, timeout=60_000)
        widget.select_row([path.name for path in widget.session.photographs].index("b.png"))
        assert (shown(widget), widget.vessels_layer is not None) == ("b.png", True)

    def test_another_model_segments_again(self, opened, tmp_path, qtbot):
        other = tiny_weights(tmp_path / "other.pth", seed=5)
        opened.model_file.value = other
        expected = vesselseg.segment(opened.session.shown, model=other, device="cpu").mask
        assert not np.array_equal(opened.vessels_layer.data, expected)
        qtbot.waitUntil(lambda: np.array_equal(opened.vessels_layer.data, expected), timeout=60_000)


class TestGoingOn:
    def test_by_buttons_and_the_list(self, opened, viewer):
        names = [path.name for path in opened.session.photographs]
        opened.next_button.changed(True)
        assert shown(opened) == names[1]
        opened.previous_button.changed(True)
        assert shown(opened) == names[0]
        opened.list.setCurrentRow(2)
        assert shown(opened) == names[2]
        assert [layer.name for layer in viewer.layers] == [names[2], f"{names[2]} vessels"]

    def test_saves_a_draft(self, opened, folder):
        first = shown(opened)
        paint(opened)
        expected = opened.vessels_layer.data.copy()
        opened.next_button.changed(True)
        assert "✎ " + first in listed(opened)
        assert find_corrections(folder) == []
        opened.previous_button.changed(True)
        assert np.array_equal(opened.vessels_layer.data, expected)

    def test_writes_nothing_for_what_was_only_looked_at(self, opened, folder):
        opened.next_button.changed(True)
        opened.previous_button.changed(True)
        assert not (folder / "corrections").exists()

    def test_keeps_showing_what_cannot_be_saved(self, opened, folder):
        (folder / "corrections").write_text("in the way")
        first = shown(opened)
        paint(opened)
        opened.next_button.changed(True)
        assert shown(opened) == first
        assert opened.is_painted()
        assert "not saved" in messages()[0]


class TestDone:
    def test_saves_a_correction_and_goes_on(self, opened, folder):
        first, second = (path.name for path in opened.session.photographs[:2])
        paint(opened, 1)
        opened.vessels_layer.data[0] = 2
        opened.done_button.changed(True)
        [(file, correction)] = find_corrections(folder)
        assert file.name == first
        values = read_correction(correction)
        assert (values[10:20, 5:30] == 255).all()
        assert (values[0] == 128).all()
        assert shown(opened) == second
        assert "✓ " + first in listed(opened)
        assert opened.status.value == "1 of 3 done"

    def test_needs_no_painting(self, opened, folder):
        for _ in range(3):
            opened.done_button.changed(True)
        assert len(find_corrections(folder)) == 3
        assert opened.status.value == "3 of 3 done"

    def test_can_be_taken_back(self, opened, folder):
        first = shown(opened)
        opened.done_button.changed(True)
        opened.previous_button.changed(True)
        opened.not_done_button.changed(True)
        assert find_corrections(folder) == []
        assert "✎ " + first in listed(opened)

    def test_nothing_is_known(self, opened, folder):
        opened.vessels_layer.data[:] = 2
        opened.done_button.changed(True)
        assert "nothing is known" in messages()[0]
        assert find_corrections(folder) == []


@pytest.mark.slow
def test_measures_are_of_what_is_painted(opened, viewer, qtbot):
    pytest.importorskip("skan", reason='needs pip install "vesselseg[measure]"')
    opened.vessels_layer.data[:] = 0
    opened.vessels_layer.data[18:23, 8:36] = 1
    opened.measures_button.changed(True)
    opened.save()  # which shows the state of every photograph anew
    assert not opened.measures_button.enabled
    qtbot.waitUntil(lambda: opened.measures_button.enabled, timeout=60_000)
    assert len(viewer.layers[f"{shown(opened)} centrelines"].data) == 1
    opened.measures_button.changed(True)
    opened.next_button.changed(True)  # before the measures are there, which are of the first one
    qtbot.waitUntil(lambda: opened.measures_button.enabled, timeout=60_000)
    assert len(viewer.layers) == 2


TRAINING = """
import pathlib, sys, time
print("iteration     0: Dice 70.00, sensitivity 1", flush=True)
folder = pathlib.Path(sys.argv[1])
while not (folder / "go").exists():
    time.sleep(0.01)
print("iteration    50: Dice 80.00, sensitivity 1")
if (folder / "fail").exists():
    sys.exit("vesselseg: There is no room.")
(folder / "fine-tuned-1.pth").write_bytes((folder / "weights").read_bytes())
(folder / "fine-tuned-1.md").write_text("# A card")
print("Trained on 3 photographs, measured on 1: Dice 70.00 before, 80.00 after.")
"""
"""A process that says and writes what fine-tuning does."""


class TestFineTuning:
    @pytest.fixture
    def ready(self, opened, folder, tmp_path, monkeypatch):
        """The widget with two corrections, and what it has started."""
        tiny_weights(tmp_path / "weights", seed=5)
        opened.started = []

        def arguments(start, _, **options):
            opened.started.append({**start._asdict(), **options})
            return ["-c", TRAINING, str(folder)]

        monkeypatch.setattr(fine_tuning, "training_arguments", arguments)
        for _ in range(2):
            opened.done_button.changed(True)
        return opened

    @staticmethod
    def start(widget, qtbot):
        tuning = widget.fine_tuning
        tuning.start_button.changed(True)
        qtbot.waitUntil(lambda: "70.00" in tuning.message.value, timeout=60_000)
        return tuning

    def test_the_new_model_segments_the_next_photographs(self, ready, folder, model_file, qtbot):
        tuning = self.start(ready, qtbot)
        assert (tuning.start_button.enabled, tuning.cancel_button.enabled) == (False, True)
        (folder / "go").touch()
        output = folder / "fine-tuned-1.pth"
        qtbot.waitUntil(lambda: ready.model_file.value == output, timeout=60_000)
        assert "Dice 70.00 before, 80.00 after." in tuning.message.value
        assert tuning.card.isVisible()
        assert tuning.output.value == folder / "fine-tuned-2.pth"
        expected = vesselseg.segment(ready.session.shown, model=output, device="cpu").mask
        qtbot.waitUntil(lambda: np.array_equal(ready.vessels_layer.data, expected), timeout=60_000)
        tuning.start_button.changed(True)  # held-out subjects must be new to what it starts from
        assert [options["model"] for options in ready.started] == [model_file, model_file]
        tuning.cancel()

    def test_can_be_cancelled_and_resumed(self, ready, folder, qtbot):
        tuning = self.start(ready, qtbot)
        (folder / "fine-tuned-1.pth.state").touch()
        tuning.cancel_button.changed(True)
        assert tuning.message.value == "Cancelled. It can be resumed with the same settings."
        assert tuning.start_button.text == "Resume fine-tuning"
        assert tuning.restart.visible
        (folder / "go").touch()
        tuning.start_button.changed(True)
        assert tuning.message.value == "Reading and measuring"
        qtbot.waitUntil(lambda: tuning.output.value.name == "fine-tuned-2.pth", timeout=60_000)
        assert not tuning.restart.visible

    def test_a_failure_is_told(self, ready, folder, qtbot):
        tuning = self.start(ready, qtbot)
        (folder / "fail").touch()
        (folder / "go").touch()
        qtbot.waitUntil(lambda: tuning.start_button.enabled, timeout=60_000)
        assert "There is no room." in messages()[0] == tuning.message.value

    def test_no_model_file_is_overwritten(self, ready, tmp_path):
        tuning = ready.fine_tuning
        tuning.output.value = tiny_weights(tmp_path / "mine.pth")
        tuning.start_button.changed(True)
        [message] = messages()
        assert "mine.pth' exists. Choose another file for the new model." in message
        assert ready.started == []

    def test_with_one_correction(self, opened):
        opened.done_button.changed(True)
        opened.fine_tuning.start_button.changed(True)
        assert "needs at least two corrections" in messages()[0]
        assert opened.fine_tuning.process is None


@pytest.mark.skipif(not os.environ.get("DISPLAY"), reason="needs a display, such as xvfb-run gives")
class TestInAWindow:
    @pytest.fixture
    def viewer(self, make_napari_viewer):
        return make_napari_viewer(show=True)

    @pytest.fixture
    def dock_and_widget(self, viewer):
        return viewer.window.add_plugin_dock_widget("vesselseg", "Correct retinal vessels")

    @pytest.fixture
    def widget(self, dock_and_widget, model_file):
        _, widget = dock_and_widget
        widget.model_file.value = model_file
        return widget

    def test_a_user_paints_with_mouse_and_keys(self, opened, viewer, folder, qtbot):
        from qtpy.QtCore import QPoint, Qt

        canvas = viewer.window._qt_viewer.canvas.native
        canvas.setFocus()
        first, second = (path.name for path in opened.session.photographs[:2])
        middle = QPoint(canvas.width() // 2, canvas.height() // 2)
        for label, key in ((2, Qt.Key.Key_U), (1, Qt.Key.Key_U)):
            qtbot.keyClick(canvas, key)
            qtbot.mouseClick(canvas, Qt.MouseButton.LeftButton, pos=middle)
            assert opened.vessels_layer.data[20, 22] == label
        qtbot.keyClick(canvas, Qt.Key.Key_N)
        assert shown(opened) == second
        qtbot.keyClick(canvas, Qt.Key.Key_N, Qt.KeyboardModifier.ShiftModifier)
        assert shown(opened) == first
        qtbot.keyClick(canvas, Qt.Key.Key_D)
        [(_, correction)] = find_corrections(folder)
        assert read_correction(correction)[20, 22] == 255

    @pytest.mark.usefixtures("widget")
    def test_fits_on_a_small_screen(self, viewer):
        assert viewer.window._qt_window.minimumSizeHint().height() < 680

    def test_the_mouse_wheel_changes_no_field(self, widget):
        from qtpy.QtCore import QPoint, QPointF, Qt
        from qtpy.QtGui import QWheelEvent
        from qtpy.QtWidgets import QApplication

        for field in (widget.model, widget.fine_tuning.iterations):
            before = field.value
            event = QWheelEvent(
                QPointF(5, 5), QPointF(5, 5), QPoint(), QPoint(0, -120), Qt.MouseButton.NoButton,
                Qt.KeyboardModifier.NoModifier, Qt.ScrollPhase.NoScrollPhase, False,
            )  # fmt: skip
            QApplication.sendEvent(field.native, event)
            assert field.value == before

    def test_a_long_message_of_fine_tuning_is_shown_whole(self, widget, qtbot):
        label = widget.fine_tuning.message
        label.value = "Choose another output. " * 15
        text = label.native
        qtbot.waitUntil(lambda: text.height() >= text.heightForWidth(text.width()), timeout=5_000)

    def test_closing_the_widget_saves_a_draft(self, opened, dock_and_widget, folder, qtbot):
        paint(opened)
        layer = opened.vessels_layer
        dock, _ = dock_and_widget
        dock.destroyOnClose()  # what the cross in its title does
        qtbot.waitUntil(lambda: not layer.editable)
        assert len(list(folder.glob("corrections/drafts/*"))) == 1
