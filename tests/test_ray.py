"""Runs on Ray: the files of a single process, whatever happens to workers and images.

They need the extra ray: pytest tests/test_ray.py
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.drawn import photograph, photographs, pixels, tree
from support.models import tiny_weights

import vesselseg
from vesselseg import DeviceError, MissingExtraError, OptionError, Segmenter, load_model
from vesselseg.batch.folder import run_here
from vesselseg.batch.table import Table
from vesselseg.cli import main
from vesselseg.ray import Summary, segment_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

COUNT = 300
DAMAGED, MISSING = 20, 250
KILLS_TWICE, KILLS_ALWAYS, RAISES = 137, 201, 77


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A Ray of two workers with a small object store."""
    reason = "needs the extra ray"
    ray = pytest.importorskip("ray", reason=reason)
    here = str(Path(__file__).parent)
    package = str(Path(vesselseg.__file__).parents[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((package, here)))  # of the workers
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray writes to it
        ray.init(
            "local", num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False,
            log_to_driver=False, configure_logging=False,
        )  # fmt: skip
        yield ray
        ray.shutdown()


def on_ray(test: Any) -> Any:
    """Marks tests that need the fixture ``ray``; its own warnings are not ours to mend."""
    unraisable = "pytest.PytestUnraisableExceptionWarning"
    for kind in ("DeprecationWarning", "FutureWarning", "ResourceWarning", unraisable):
        test = pytest.mark.filterwarnings(f"ignore::{kind}")(test)
    test = pytest.mark.slow(test)
    return pytest.mark.cluster(pytest.mark.usefixtures("ray")(test))


class Deadly(Segmenter):
    """A model that kills its process at two images, twice and always, and raises at a third."""

    mark: Path

    def segment_many(self, images: Any, **options: Any) -> Any:
        def watched() -> Iterator[Any]:
            for image in images:
                if isinstance(image, Exception):
                    yield image
                    continue
                if np.array_equal(image.rgb, photograph(KILLS_ALWAYS)):
                    os.kill(os.getpid(), signal.SIGKILL)
                if np.array_equal(image.rgb, photograph(KILLS_TWICE)):
                    with self.mark.open("a") as mark:
                        mark.write("x")
                    if self.mark.stat().st_size <= 2:  # among others, then alone
                        os.kill(os.getpid(), signal.SIGKILL)
                if np.array_equal(image.rgb, photograph(RAISES)):
                    raise KeyError("unforeseen")
                yield image

        return super().segment_many(watched(), **options)

    def to(self, device: Any = None, precision: Any = None) -> Segmenter:
        return make_deadly(super().to(device, precision), self.mark)


def make_deadly(model: Segmenter, mark: Path) -> Segmenter:
    deadly = Deadly.__new__(Deadly)
    deadly.__dict__.update(model.__dict__, mark=mark)
    return deadly


def rows_of(path: Path) -> dict[str, dict[str, Any]]:
    import pyarrow.parquet as pq

    rows = pq.read_table(path).to_pylist()
    assert [row["input"] for row in rows] == sorted(row["input"] for row in rows)
    return {Path(row["input"]).name: row for row in rows}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a collection, ``in``, and what a single process makes of it, ``single``."""
    folder = tmp_path_factory.mktemp("collection")
    tiny_weights(folder / "tiny.pth")
    paths = photographs(folder / "in", [f"{i % 7}/{i:03}.png" for i in range(COUNT)])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command = ["in", "--recursive", "-o", "single", "--model", "tiny.pth"]
        assert main([*command, "--device", "cpu"]) == 0
        paths[DAMAGED].rename("whole.png")
        paths[DAMAGED].write_bytes(b"no image")
        yield folder


@pytest.fixture(scope="module")
def first_run(ray: Any, here: Path) -> tuple[Summary, list[Any], dict[str, bytes]]:
    """The whole collection through the deadly model: summary, reports and files."""
    del ray
    rows: list[Any] = []
    summary = segment_dataset(
        ["in", "in/gone.png"],
        "out",
        model=make_deadly(load_model("tiny.pth", device="cpu"), here / "mark"),
        recursive=True,
        workers=2,
        on_row=rows.append,
    )
    return summary, rows, tree(here / "out")


@on_ray
def test_a_worker_that_is_killed_loses_nothing(first_run: Any, here: Path) -> None:
    summary, _, files = first_run
    assert (here / "mark").read_text() == "xxx"  # it was killed in the middle
    place = str(Path("out/manifest.parquet"))
    assert summary == Summary(segmented=COUNT - 3, failed=4, manifest=place)
    expected = tree(here / "single")
    assert len(expected) == COUNT
    for number in (DAMAGED, KILLS_ALWAYS, RAISES):
        del expected[f"{number % 7}/{number:03}.png"]
    assert {k: v for k, v in files.items() if k != "manifest.parquet"} == expected


@on_ray
def test_every_image_is_in_the_manifest_with_what_went_wrong(first_run: Any, here: Path) -> None:
    summary, reported, files = first_run
    (here / "first.parquet").write_bytes(files["manifest.parquet"])
    rows = rows_of(here / "first.parquet")
    assert len(rows) == COUNT + 1
    errors = {name: row["error"] for name, row in rows.items() if row["error"]}
    assert sorted(errors) == ["020.png", "077.png", "201.png", "gone.png"]
    assert "could not be decoded" in errors["020.png"]
    assert errors["077.png"] == "KeyError('unforeseen')"
    assert "Every worker that had this photograph died" in errors["201.png"]
    assert "There is no image" in errors["gone.png"]
    assert sorted(row["input"] for row in reported) == sorted(x["input"] for x in rows.values())
    row = rows["137.png"]
    assert row["input"] == str(Path("in/4/137.png"))
    assert row["mask"] == str(Path("out/4/137.png"))
    assert row["sha256"] == load_model("tiny.pth").sha256
    assert (row["scale"], row["device"], row["threshold"]) == ("native", "cpu", 0.5)
    assert 0 < row["vessel_fraction"] < 1
    assert row["seconds"] >= 0
    assert summary.failed == len(errors)


@on_ray
@pytest.mark.usefixtures("first_run")
def test_a_second_run_does_only_the_rest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "whole.png").rename(here / "in" / "6" / "020.png")
    before = {path: path.stat().st_mtime_ns for path in (here / "out").rglob("*.png")}
    command = ["segment", "in", "-r", "-o", "out", "--model", "tiny.pth", "--device", "cpu"]
    assert main([*command, "--executor", "ray", "--resume"]) == 0
    assert f"3 segmented, {COUNT - 3} skipped, 0 failed" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in before} == before
    files = tree(here / "out")
    del files["manifest.parquet"]
    assert files == tree(here / "single")
    rows = rows_of(here / "out" / "manifest.parquet")
    assert [name for name, row in rows.items() if row["error"]] == ["gone.png"]  # of before


@on_ray
def test_addresses_are_read_and_written(here: Path) -> None:
    photographs(here / "far", ["a/1.png", "a/2.png", ".hidden.png", "notes/3.txt.png"])
    (here / "far" / "a" / "2.png").write_bytes(b"no image")
    summary = segment_dataset(
        (here / "far").as_uri(),
        f"local://{here / 'near'}",
        model="tiny.pth",
        device="cpu",
        kinds=("mask", "overlay"),
        recursive=True,
        workers=1,
    )
    assert (summary.segmented, summary.failed) == (2, 1)
    names = ["a/1.png", "a/1_overlay.png", "notes/3.txt.png", "notes/3.txt_overlay.png"]
    files = tree(here / "near")
    assert sorted(files) == sorted([*names, "manifest.parquet"])
    for place in (Path("a/1.png"), Path("notes/3.txt.png")):
        result = load_model("tiny.pth", device="cpu")(here / "far" / place)
        assert np.array_equal(pixels(here / "near" / place) > 0, result.mask)
    row = rows_of(here / "near" / "manifest.parquet")["1.png"]
    assert row["overlay"] == f"local://{here / 'near'}/a/1_overlay.png"


@on_ray
def test_an_interrupted_run_is_resumed_on_the_ray_of_the_program(ray: Any, here: Path) -> None:
    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"model": "tiny.pth", "device": "cpu", "workers": 1}
    with pytest.raises(KeyboardInterrupt):
        segment_dataset("in/0", here / "stopped", on_row=interrupt, **options)
    summary = segment_dataset("in/0", here / "stopped", resume=True, **options)
    assert summary.segmented + summary.skipped == 43
    assert summary.skipped >= 1
    assert ray.is_initialized()
    with pytest.raises(OptionError, match="initialised Ray already"):
        segment_dataset("in/gone.png", here / "left", address="auto", **options)


@pytest.mark.parametrize(
    ("out", "manifest"),
    [
        ("my eyes", "my eyes/manifest.parquet"),
        ("local://{folder}/my other eyes/a.png", "my other eyes/manifest.parquet"),
        ("third/a.tif", "third/manifest.parquet"),
        ("local://{folder}", "manifest.parquet"),  # above the photographs
    ],
)
def test_the_manifest_is_in_the_folder_of_the_results(
    out: str, manifest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ray", "pyarrow"):
        pytest.importorskip(module, reason="needs the extra ray")
    monkeypatch.setattr("vesselseg.ray.run_on_cluster", lambda *work, **_: run_here(*work))
    monkeypatch.chdir(tmp_path)
    (eye,) = photographs(tmp_path / "one", ["a.jpg"])
    place = f"local://{eye}" if "://" in out else str(eye)
    model = tiny_weights(tmp_path / "tiny.pth")
    summary = segment_dataset(place, out.format(folder=tmp_path), model=model)
    assert summary.segmented == 1
    assert summary.manifest is not None
    assert Path(summary.manifest.removeprefix("local://")).resolve() == tmp_path / manifest
    (row,) = rows_of(tmp_path / manifest).values()
    mask = Path(row["mask"].removeprefix("local://"))
    assert pixels(tmp_path / mask).shape == photograph(0).shape[:2]


@on_ray
@pytest.mark.usefixtures("ray", "here")
def test_measures_are_the_same_as_without_ray() -> None:
    pytest.importorskip("skan", reason="needs the extra measure")
    words = ["measure", "in/1", "--model", "tiny.pth", "--device", "cpu"]
    assert main([*words, "-o", "here.csv"]) == 0
    assert main([*words, "-o", "there.csv", "--executor", "ray"]) == 0
    here_rows, there = (
        [{**row, "seconds": None} for row in Table(name).rows] for name in ("here.csv", "there.csv")
    )
    assert here_rows == there


@on_ray
@pytest.mark.parametrize(
    ("device", "said"),
    [("cuda", "no GPU"), ("mps", r"workers cannot start: .*Device 'mps' is not available")],
)
def test_workers_that_cannot_start_end_the_run(
    ray: Any, here: Path, device: str, said: str
) -> None:
    del ray
    with pytest.raises(DeviceError, match=said):
        segment_dataset("in/0", here / "none", model="tiny.pth", device=device, workers=1)


@on_ray
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers is 0"),
        ({"scale": -1}, "scale"),
    ],
)
def test_wrong_options_are_rejected_before_anything_starts(
    here: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        segment_dataset("in", here / "wrong", model="tiny.pth", recursive=True, **options)
    assert not tree(here / "wrong")


def test_without_ray_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install .*\[ray\]"):
        segment_dataset("in", "out")


@pytest.mark.parametrize(
    "options", [["--address", "auto"], ["--executor", "ray", "-o", "-"]],
)  # fmt: skip
def test_options_that_do_not_go_together_are_rejected(options: list[str]) -> None:
    assert main(["segment", "eye.jpg", "-o", "out", *options]) == 2
