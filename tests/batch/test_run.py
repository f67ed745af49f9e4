"""Runs over many images: order, failures, memory, shared batches."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from folders import photographs, pixels, tiny_model, tree
from torch import Tensor

from vesselseg import OptionError, Segmenter, load_model
from vesselseg.batch import run as batches
from vesselseg.batch.manifest import Line
from vesselseg.batch.plan import Job
from vesselseg.backends.pytorch import TorchBackend

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    file = tiny_model(tmp_path_factory.mktemp("model") / "tiny.pth")
    return load_model(file, device="cpu", batch_size=3)


def jobs_of(folder: Path, count: int) -> list[Job]:
    paths = photographs(folder / "in", [f"{i:02}.png" for i in range(count)])
    return [Job(p.name, p, {"mask": folder / "out" / "sub" / p.name}) for p in paths]


def run(jobs: Any, model: Segmenter, **options: Any) -> list[tuple[str, Line]]:
    reports: list[tuple[str, Line]] = []
    batches.run(jobs, model, lambda job, line: reports.append((job.name, line)), **options)
    return reports


def test_every_image_gets_its_own_result_and_a_report(model: Segmenter, tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, 12)
    reports = run(jobs, model, threshold=0.4)
    assert [name for name, _ in reports] == [job.name for job in jobs]
    for job, (_, line) in zip(jobs, reports, strict=True):
        assert (pixels(job.outputs["mask"]) > 0).tolist() == (
            model(job.image, threshold=0.4).mask.tolist()
        )
        assert line["threshold"] == 0.4
        assert line["seconds"] >= 0


def test_files_do_not_depend_on_how_the_images_were_grouped(
    model: Segmenter, tmp_path: Path
) -> None:
    jobs = jobs_of(tmp_path, 7)
    run(jobs, model)
    together = tree(tmp_path / "out")
    for job in reversed(jobs):
        run([job], model)
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


def test_an_image_that_fails_does_not_stop_the_others(model: Segmenter, tmp_path: Path) -> None:
    jobs = jobs_of(tmp_path, 9)
    jobs[0].image.write_bytes(b"")  # type: ignore[union-attr]
    jobs[4].image.write_bytes(b"no image")  # type: ignore[union-attr]
    jobs[8].image.unlink()  # type: ignore[union-attr]
    reports = dict(run(jobs, model))
    assert "is empty" in reports["00.png"]["error"]
    assert "could not be decoded" in reports["04.png"]["error"]
    assert "There is no image" in reports["08.png"]["error"]
    assert sum("error" not in line for line in reports.values()) == 6
    assert len(tree(tmp_path / "out")) == 6


def test_an_output_that_cannot_be_written_does_not_stop_the_others(
    model: Segmenter, tmp_path: Path
) -> None:
    jobs = jobs_of(tmp_path, 3)
    (tmp_path / "file").touch()
    jobs[1].outputs["mask"] = tmp_path / "file" / "01.png"
    reports = dict(run(jobs, model))
    assert "cannot be made" in reports["01.png"]["error"]
    assert len(tree(tmp_path / "out")) == 2


def test_an_image_too_large_for_the_memory_fails_alone(
    model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_of(tmp_path, 8)
    run(jobs, model)
    expected = tree(tmp_path / "out")
    too_large = batches.to_rgb(jobs[3].image)
    compute = TorchBackend.__call__

    def limited(self: TorchBackend, windows: Tensor) -> Tensor:
        corner = too_large[:32, :32].tolist()
        if any(x.permute(1, 2, 0).tolist() == corner for x in windows):
            raise RuntimeError("can't allocate memory: you tried to allocate too much")
        return compute(self, windows)

    monkeypatch.setattr(TorchBackend, "__call__", limited)
    for job in jobs:
        job.outputs["mask"].unlink()
    reports = dict(run(jobs, model))
    assert "too much" in reports.pop("03.png")["error"]
    assert not any("error" in line for line in reports.values())
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

    batches.run(counted(), model, lambda *_: seen.append(taken))
    ahead = max(taken_then - done for done, taken_then in enumerate(seen))
    assert ahead < 20  # decoded, in a batch, being written
    assert len(seen) == 60


def test_decoding_and_encoding_run_beside_the_network(
    model: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: dict[str, set[str]] = {"decode": set(), "encode": set(), "report": set()}

    def noted(what: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            threads[what].add(threading.current_thread().name)
            return function(*arguments)

        return call

    monkeypatch.setattr(batches, "to_rgb", noted("decode", batches.to_rgb))
    monkeypatch.setattr(batches, "_write", noted("encode", batches._write))
    batches.run(jobs_of(tmp_path, 8), model, noted("report", lambda *_: None))
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
        batches.run(jobs, model, lambda job, _: reports.append(job.name))
    assert sorted(tree(tmp_path / "out")) == [f"sub/{name}" for name in reports]
    assert 0 < len(reports) < 20


def test_a_wrong_option_is_told_before_any_work(model: Segmenter, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="scale is 'half'"):
        run(jobs_of(tmp_path, 2), model, scale="half")
    assert not (tmp_path / "out").exists()
