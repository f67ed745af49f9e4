"""The figures of the explanation are those that its script draws."""

import importlib.util
import re

import pytest
from PIL import Image
from support import EXAMPLE

import vesselseg
from vesselseg.measures import COLUMNS

pytest.importorskip("skan", reason='pip install "vesselseg[measure]"')

DOCS = EXAMPLE.parents[1] / "docs"
PAGE = (DOCS / "explanation" / "measures.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("windows_once")
def test_the_script_draws_every_figure(tmp_path):
    spec = importlib.util.spec_from_file_location("figures", DOCS / "measures_figures.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.draw_all(tmp_path, vesselseg.segment(EXAMPLE, device="cpu"))
    committed = sorted((DOCS / "images").glob("measures-*"))
    assert [path.name for path in committed] == sorted(path.name for path in tmp_path.iterdir())
    for path in committed:
        assert path.stat().st_size < 150_000
        with Image.open(path) as old, Image.open(tmp_path / path.name) as new:
            assert old.size == new.size


def test_every_measure_is_explained():
    for column in COLUMNS:
        if not column.name.endswith("_fov"):
            assert re.search(rf"`{column.name}`|{column.name.replace('_', ' ')}", PAGE, re.I), (
                column
            )
