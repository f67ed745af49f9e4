"""Runs over many images: order, failures, memory, shared batches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.drawn import photographs, pixels, tree
from support.models import tiny_weights
from torch import Tensor

from vesselseg import OptionError, Segmenter, load_model
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.batch import pipeline
from vesselseg.batch.jobs import Job
from vesselseg.batch.manifest import Row

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    file = tiny_weights(tmp_path_factory.mktemp("model") / "tiny.pth")
    return load_model(file, device="cpu", batch_size=3)


def jobs_of(folder: Path, count: int) -> list[Job]:
    paths = photographs(folder / "in", [f"{i:02}.png" for i in range(count)])
    return [Job(str(p), {"mask": str(folder / "out" / "sub" / p.name)}) for p in paths]


def run(jobs: Any, model: Segmenter, **options: Any) -> list[tuple[str, Row]]:
    rows: list[tuple[str, Row]] = []
    pipeline.run(jobs, model, lambda job, row: rows.append((Path(job.name).name, row)), **options)
    return rows


def test_every_image_gets_its_own_result_however_they_are_grouped(
    model: Segmenter, tmp_path: Path
) -> None:
    jobs = jobs_of(tmp_path, 12)
    reports = run(jobs, model, threshold=0.4)
    assert [name for name, _ in reports] == [Path(job.name).name for job in jobs]
    for job, (_, row) in zip(jobs, reports, strict=True):
        mask = model(job.name, threshold=0.4).mask
        assert (pixels(Path(job.outputs["mask"])) > 0).tolist() == mask.tolist()
        assert row["threshold"] == 0.4
        assert row["seconds"] >= 0
    together = tree(tmp_path / "out")
    for job in reversed(jobs):
        run([job], model, threshold=0.4)
    assert tree(tmp_path / "out") == together


def test_windows_of_several_small_images_share_batches(
    model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(tmp_path, 6)  # 40 x 48 pixels in windows of 32: 4 windows each
    calls = []
    compute = TorchBackend.__call__

    def counted(self: TorchBackend, windows: Tensor) -> Tensor:
        calls.append(len(windows))
        return compute(self, windows)

    monkeypatch.setattr(TorchBackend, "__call__", counted)
    run(jobs, model)
    assert calls == [3] * (6 * 4 // 3)  # one by one it would take 2 per image, 12


def test_an_image_or_output_that_fails_does_not_stop_the_others(
    model: Segmenter, tmp_path: Path
) -> None:
    jobs = jobs_of(tmp_path, 9)
    Path(jobs[0].name).write_bytes(b"")
    (tmp_path / "file").touch()
    jobs[1].outputs["mask"] = str(tmp_path / "file" / "01.png")
    Path(jobs[4].name).write_bytes(b"no image")
    Path(jobs[8].name).unlink()
    errors = {name: row["error"] for name, row in run(jobs, model) if "error" in row}
    assert sorted(errors) == ["00.png", "01.png", "04.png", "08.png"]
    assert "is empty" in errors["00.png"]
    assert "cannot be created" in errors["01.png"]
    assert "could not be decoded" in errors["04.png"]
    assert "There is no image" in errors["08.png"]
    assert len(tree(tmp_path / "out")) == 5


def test_an_image_too_large_for_the_memory_fails_alone(
    model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(tmp_path, 8)
    run(jobs, model)
    expected = tree(tmp_path / "out")
    too_large = pipeline.to_rgb(jobs[3].name)
    compute = TorchBackend.__call__

    def limited(self: TorchBackend, windows: Tensor) -> Tensor:
        corner = too_large[:32, :32].tolist()
        if any(x.permute(1, 2, 0).tolist() == corner for x in windows):
            raise RuntimeError("can't allocate memory: you tried to allocate too much")
        return compute(self, windows)

    monkeypatch.setattr(TorchBackend, "__call__", limited)
    for job in jobs:
        Path(job.outputs["mask"]).unlink()
    reports = dict(run(jobs, model))
    assert "too much" in reports.pop("03.png")["error"]
    assert not any("error" in row for row in reports.values())
    del expected["sub/03.png"]
    assert tree(tmp_path / "out") == expected


def test_only_a_few_images_are_held_at_once(model: Segmenter, tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, 60)
    taken = 0
    seen = []

    def counted() -> Iterator[Job]:
        nonlocal taken
        for job in jobs:
            taken += 1
            yield job

    pipeline.run(counted(), model, lambda *_: seen.append(taken))
    ahead = max(taken_then - done for done, taken_then in enumerate(seen))
    assert ahead < 20  # decoded, in a batch, being written
    assert len(seen) == 60


def test_decoding_and_encoding_run_beside_the_network(
    model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[str]] = {"decode": set(), "encode": set(), "report": set()}

    def noted(what: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            threads[what].add(threading.current_thread().name)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(pipeline, "to_rgb", noted("decode", pipeline.to_rgb))
    monkeypatch.setattr(pipeline, "write_outputs", noted("encode", pipeline.write_outputs))
    pipeline.run(jobs_of(tmp_path, 8), model, noted("report", lambda *_: None))
    here = threading.current_thread().name
    assert threads["report"] == {here}
    assert here not in threads["decode"] | threads["encode"]
    assert not threads["decode"] & threads["encode"]


def test_an_interruption_leaves_what_was_finished(
    model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(tmp_path, 20)
    compute = TorchBackend.__call__
    calls = 0

    def interrupted(self: TorchBackend, windows: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 14:  # 3 windows a call, 4 an image: 9 images are complete
            raise KeyboardInterrupt
        return compute(self, windows)

    monkeypatch.setattr(TorchBackend, "__call__", interrupted)
    reports: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(jobs, model, lambda job, _: reports.append(Path(job.name).name))
    assert sorted(tree(tmp_path / "out")) == [f"sub/{name}" for name in reports]
    assert 0 < len(reports) < 20


def test_a_wrong_option_is_reported_before_any_work(model: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="scale is 'half'"):
        run(jobs_of(tmp_path, 2), model, scale="half")
    assert not (tmp_path / "out").exists()
