"""The widget: what a user chooses, sees and cancels; at the end, in a real window of napari."""

import os
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from support.drawn import photograph

import vesselseg
from vesselseg import DeviceError, DownloadError, Segmentation, api

pytest.importorskip("napari.layers", reason="needs the extra napari")
pytest.importorskip("pytestqt", reason="needs the extra napari-test")

from napari.layers import Image
from napari.utils.notifications import notification_manager
from npe2 import PluginManifest
from qtpy.compat import isalive
from superqt.utils import WorkerBase

from vesselseg.napari.widget import SegmentVessels, find_vessels

PHOTOGRAPH = photograph(0)


@pytest.fixture
def widget(viewer, model_file, qtbot):  # noqa: ARG001 # qtbot starts Qt
    """The widget beside a photograph, with a tiny model chosen."""
    viewer.add_image(PHOTOGRAPH, name="eye")
    widget = SegmentVessels(viewer)
    widget.show()
    widget.model_file.value = model_file
    widget.device.value = "cpu"
    notification_manager.records.clear()
    yield widget
    if isalive(widget.native):
        widget.native.deleteLater()


@pytest.fixture
def blocked(monkeypatch):
    """Holds every run of a model until `go` is set."""
    started, go = threading.Event(), threading.Event()
    segment = api.segment

    def wait(*arguments, **options):
        started.set()
        assert go.wait(60)
        return segment(*arguments, **options)

    monkeypatch.setattr(api, "segment", wait)
    yield SimpleNamespace(started=started, go=go)
    go.set()


def run(widget, qtbot):
    """Press Segment and wait for the end."""
    widget.start_button.changed(True)
    qtbot.waitUntil(lambda: widget.start_button.enabled, timeout=60_000)


def names(viewer):
    return [layer.name for layer in viewer.layers]


def messages():
    return [str(record.message) for record in notification_manager.records]


class TestManifest:
    def test_names_functions_that_exist(self):
        manifest = PluginManifest.from_distribution("vesselseg")
        manifest.validate_imports()

    def test_offers_a_widget_under_layers_and_a_sample(self):
        offered = PluginManifest.from_distribution("vesselseg").contributions
        assert [widget.display_name for widget in offered.widgets] == [
            "Segment retinal vessels",
            "Correct retinal vessels",
        ]
        assert [item.command for item in offered.menus["napari/layers/segment"]] == [
            widget.command for widget in offered.widgets
        ]
        assert [sample.display_name for sample in offered.sample_data] == ["Fundus photograph"]


class TestSegment:
    def test_adds_a_probability_and_a_mask(self, widget, viewer, model_file, qtbot):
        widget.threshold.value = 0.4
        run(widget, qtbot)
        expected = vesselseg.segment(PHOTOGRAPH, model=model_file, device="cpu", threshold=0.4)
        assert names(viewer) == ["eye", "eye probability", "eye vessels"]
        assert np.array_equal(viewer.layers["eye vessels"].data, expected.mask)
        assert viewer.layers["eye vessels"].metadata["vesselseg"] == expected.provenance
        assert messages() == []

    def test_shows_that_it_runs(self, widget, blocked, qtbot):
        widget.start()
        qtbot.waitUntil(blocked.started.is_set)
        assert widget.progress.visible
        assert (widget.start_button.enabled, widget.cancel_button.enabled) == (False, True)
        blocked.go.set()
        qtbot.waitUntil(lambda: widget.start_button.enabled)
        assert not widget.progress.visible
        assert not widget.cancel_button.enabled

    def test_passes_the_options_on(self, widget, viewer, qtbot):
        widget.scale.value = "fov"
        run(widget, qtbot)
        [message] = messages()
        assert message.startswith("Model 'tiny' has no size for the scale 'fov'. Its own scale is")
        widget.scale.value = "native"
        run(widget, qtbot)
        assert viewer.layers["eye vessels"].metadata["vesselseg"]["scale"] == "native"
        widget.bits.value = 12
        run(widget, qtbot)
        assert "12 bits are for uint16" in messages()[-1]

    def test_offers_photographs_and_no_results(self, widget, viewer, qtbot):
        run(widget, qtbot)
        viewer.add_image(PHOTOGRAPH, name="other eye")
        widget.reset_choices()
        assert [layer.name for layer in widget.photograph.choices] == ["eye", "other eye"]

    def test_offers_every_model_the_embedded_one_first(self, widget):
        assert list(widget.model.choices) == [spec.name for spec in vesselseg.list_models()]


class TestThreshold:
    def test_redraws_the_mask_without_the_model(self, widget, viewer, qtbot, monkeypatch):
        run(widget, qtbot)
        monkeypatch.delattr(api, "segment")
        mask, result = viewer.layers["eye vessels"], widget.result
        widget.threshold.value = 0.3
        expected = result.at_threshold(0.3)
        assert expected.mask.sum() > result.mask.sum()
        assert np.array_equal(mask.data, expected.mask)
        assert mask.metadata["vesselseg"]["threshold"] == 0.3
        qtbot.waitUntil(
            lambda: mask.features["vessel_fraction"].tolist() == [expected.vessel_fraction()]
        )

    def test_moved_during_a_run(self, widget, viewer, blocked, qtbot):
        widget.start()
        qtbot.waitUntil(blocked.started.is_set)
        widget.threshold.value = 0.3
        blocked.go.set()
        qtbot.waitUntil(lambda: "eye vessels" in names(viewer))
        assert viewer.layers["eye vessels"].metadata["vesselseg"]["threshold"] == 0.3
        qtbot.waitUntil(lambda: not widget.measuring)

    def test_measures_the_last_of_many_positions(self, widget, viewer, qtbot, monkeypatch):
        run(widget, qtbot)
        measured, go = [], threading.Event()

        def measure(result):
            assert go.wait(60)
            measured.append(result.provenance["threshold"])
            return SimpleNamespace(to_dict=lambda: {"at": result.provenance["threshold"]})

        monkeypatch.setattr(Segmentation, "measure", measure, raising=False)
        for threshold in (0.1, 0.2, 0.3, 0.4):
            widget.threshold.value = threshold
        go.set()
        qtbot.waitUntil(lambda: not widget.measuring)
        assert measured == [0.1, 0.4]
        assert viewer.layers["eye vessels"].features["at"].tolist() == [0.4]

    def test_after_the_mask_was_removed(self, widget, viewer, qtbot):
        run(widget, qtbot)
        viewer.layers.remove("eye vessels")
        widget.threshold.value = 0.3
        assert names(viewer) == ["eye", "eye probability"]


class TestShowMeasures:
    @pytest.fixture(autouse=True)
    def needs_the_extra(self):
        pytest.importorskip("skan", reason='needs pip install "vesselseg[measure]"')

    @staticmethod
    def show(widget, qtbot):
        widget.measures_button.changed(True)
        qtbot.waitUntil(lambda: widget.measures_button.enabled, timeout=60_000)

    def test_adds_layers_of_what_is_painted(self, widget, viewer, qtbot):
        run(widget, qtbot)
        mask = viewer.layers["eye vessels"]
        mask.data = np.zeros_like(mask.data)
        mask.data[18:23, 8:36] = 1
        mask.data[30, 8:36] = 2  # no vessel
        viewer.layers.selection.active = mask
        for _ in range(2):  # the second time in place of the first
            self.show(widget, qtbot)
            assert names(viewer)[3:] == [
                "eye field of view", "eye centrelines", "eye end points"
            ]  # fmt: skip
        assert len(viewer.layers["eye centrelines"].data) == 1
        assert viewer.layers.selection.active is mask

    def test_before_there_are_vessels(self, widget, viewer, qtbot):
        self.show(widget, qtbot)
        assert "There are no vessels to measure." in messages()[0]
        assert names(viewer) == ["eye"]

    def test_without_the_extra(self, widget, viewer, qtbot, monkeypatch):
        run(widget, qtbot)
        monkeypatch.setitem(sys.modules, "skan", None)
        self.show(widget, qtbot)
        assert ".[measure]" in messages()[0]
        assert len(viewer.layers) == 3


class TestErrors:
    def test_no_photograph(self, widget, viewer):
        viewer.layers.clear()
        widget.reset_choices()  # napari does this whenever layers change
        widget.start()
        assert "File > Open Sample > Fundus photograph (vesselseg)" in messages()[0]
        assert widget.start_button.enabled

    @pytest.mark.parametrize(
        "error", [DeviceError("No GPU."), FileNotFoundError("There is no model file.")]
    )
    def test_are_notifications(self, error, widget, viewer, qtbot, monkeypatch):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(api, "segment", fail)
        run(widget, qtbot)
        assert messages() == [str(error)]
        assert names(viewer) == ["eye"]

    def test_a_stack_of_images(self, widget, viewer, qtbot):
        viewer.layers.clear()
        viewer.add_image(np.zeros((5, 40, 44), np.uint8), name="stack")
        widget.reset_choices()
        run(widget, qtbot)
        assert "'stack' has data of shape (5, 40, 44)" in messages()[0]


class TestCancel:
    def test_drops_the_result(self, widget, viewer, blocked, qtbot):
        widget.start()
        qtbot.waitUntil(blocked.started.is_set)
        widget.cancel_button.changed(True)
        assert widget.start_button.enabled
        assert not widget.progress.visible
        blocked.go.set()
        run(widget, qtbot)  # another run, whose result is kept
        assert names(viewer) == ["eye", "eye probability", "eye vessels"]

    def test_closed_while_it_runs(self, widget, viewer, blocked, qtbot):
        widget.start()
        qtbot.waitUntil(blocked.started.is_set)
        widget.native.deleteLater()
        qtbot.wait(1)  # Qt's turn
        blocked.go.set()
        WorkerBase.await_workers()
        qtbot.wait(1)
        assert names(viewer) == ["eye"]
        assert messages() == []


class TestDownload:
    def test_is_shown(self, widget, qtbot, monkeypatch):
        received, go = threading.Event(), threading.Event()

        def download(_, progress):
            progress(30, 120)
            received.set()
            assert go.wait(60)
            progress(120, 120)
            raise DownloadError("The host is down.")

        monkeypatch.setattr(api, "download", download)
        widget.model_file.value = None
        widget.start()
        qtbot.waitUntil(received.is_set)
        qtbot.waitUntil(lambda: (widget.progress.value, widget.progress.max) == (25, 100))
        go.set()
        qtbot.waitUntil(lambda: widget.progress.max == 0)
        qtbot.waitUntil(lambda: widget.start_button.enabled)
        assert messages() == ["The host is down."]

    def test_ends_when_cancelled(self, monkeypatch):
        cancelled, received = threading.Event(), []

        def download(_, progress):
            progress(30, 120)
            cancelled.set()
            progress(60, 120)

        monkeypatch.setattr(api, "download", download)
        find_vessels(
            Image(PHOTOGRAPH), "unet_s5-d16_drive", cancelled, lambda *sizes: received.append(sizes)
        )
        assert received == [(30, 120)]


@pytest.mark.skipif(not os.environ.get("DISPLAY"), reason="needs a display, such as xvfb-run gives")
class TestInAWindow:
    @pytest.fixture
    def window(self, make_napari_viewer):
        viewer = make_napari_viewer(show=True)
        viewer.open_sample("vesselseg", "fundus")
        return viewer.window

    @pytest.fixture
    def widget(self, window, model_file):
        _, widget = window.add_plugin_dock_widget("vesselseg", "Segment retinal vessels")
        widget.model_file.value = model_file
        return widget

    def test_segments_the_sample(self, widget, qtbot):
        run(widget, qtbot)
        assert names(widget.viewer) == ["fundus", "fundus probability", "fundus vessels"]
        vessel = np.argwhere(widget.mask_layer.data)[0]  # where a user points the mouse
        assert "vessel_fraction: " in widget.mask_layer.get_status(vessel, world=True)["value"]
        widget.viewer.layers.remove("fundus")
        assert widget.photograph.choices == ()

    def test_closed_while_it_runs(self, window, widget, blocked, qtbot):
        widget.start()
        qtbot.waitUntil(blocked.started.is_set)
        window.remove_dock_widget("all")
        blocked.go.set()
        WorkerBase.await_workers()
        qtbot.wait(1)
        assert names(widget.viewer) == ["fundus"]
