"""Widgets without a screen, a viewer, a folder of photographs, and a tiny model."""

import os

import pytest
from support import drawn
from support.models import TINY, tiny_weights

from vesselseg import load_model

if not os.environ.get("DISPLAY"):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")


@pytest.fixture(autouse=True)
def _with_one_thread(one_thread):
    pass


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("model") / "tiny.pth")


@pytest.fixture(scope="session")
def model(model_file):
    return load_model(TINY, weights=model_file, device="cpu")


@pytest.fixture
def folder(tmp_path):
    """Photographs a.png, b.png and c.png, and a file that is none."""
    (tmp_path / "notes.txt").write_text("no photograph")
    drawn.photographs(tmp_path, ["a.png", "b.png", "c.png"])
    return tmp_path


@pytest.fixture
def viewer():
    """A viewer without a window, which would need OpenGL."""
    from napari.components import ViewerModel

    return ViewerModel()
