"""The notebook of the examples runs, and its stored outputs are those that it gives.

``python tests/test_notebook.py`` stores new outputs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from support import EXAMPLE

nbformat = pytest.importorskip("nbformat", reason="nbformat comes with vesselseg[docs]")
nbclient = pytest.importorskip("nbclient", reason="nbclient comes with vesselseg[docs]")
pytest.importorskip("ipykernel", reason="ipykernel comes with vesselseg[docs]")

NOTEBOOK = EXAMPLE.parent / "tutorial.ipynb"


@pytest.fixture
def stored() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the notebook runs, with all that Jupyter writes."""
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    place = tmp_path / "notebook"
    place.mkdir()
    shutil.copy(EXAMPLE, place)
    return place


def execute(folder: Path) -> Any:
    """The notebook with the outputs that it gives in a folder; an error in a cell is raised."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(
        notebook,
        timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": os.fspath(folder)}},
    ).execute()
    return notebook


def texts(notebook: Any) -> list[str]:
    """What every cell prints and returns as text, without bars, which show the time."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stdout":
                found.append(output.text)
            elif output.output_type in ("execute_result", "display_data"):
                found.append(output.data["text/plain"])
    return found


@pytest.mark.slow
def test_every_cell_runs_and_says_what_is_stored(stored: Any, folder: Path) -> None:
    notebook = execute(folder)
    assert texts(notebook) == texts(stored)
    assert "Warning" not in nbformat.writes(notebook)
    saved = sorted(path.name for path in (folder / "vessels").iterdir() if path.is_file())
    assert saved == ["mask.png", "outline.tif", "probability.npy"]


def test_its_result_is_shown_with_picture_and_figures(stored: Any) -> None:
    (shown,) = (
        output.data
        for cell in stored.cells
        for output in cell.get("outputs", [])
        if output.output_type == "execute_result"
    )
    assert set(shown) == {"image/png", "text/html", "text/plain"}
    assert "11.5 % of the field of view" in shown["text/html"]


def test_it_is_small_and_names_no_place_of_a_machine(stored: Any) -> None:
    assert NOTEBOOK.stat().st_size < 400_000
    for cell in stored.cells:
        for output in cell.get("outputs", []):
            for picture in ("image/png", "text/html"):  # any letters can come in these
                output.get("data", {}).pop(picture, None)
    content = nbformat.writes(stored)
    for place in ("/home/", "/root", "/tmp", "/usr", "Users"):
        assert place not in content


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        shutil.copy(EXAMPLE, name)
        executed = execute(Path(name))
    executed.metadata.language_info = {"name": "python"}
    nbformat.write(executed, NOTEBOOK)
