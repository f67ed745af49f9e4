"""Widgets without a screen. Without the extra `napari`, these tests are skipped."""

import os

import pytest

pytest.importorskip("napari", reason='needs pip install "vesselseg[napari]"')

if not os.environ.get("DISPLAY"):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
