"""Paths and addresses: which images are found, and where their results go."""

from __future__ import annotations

from pathlib import Path

import pytest

from vesselseg import OptionError
from vesselseg.batch import storage
from vesselseg.batch.plan import make_plan
from vesselseg.batch.storage import Task, make_tasks

NAMES = ["1.jpg", "sub/2.TIF", "sub/.hidden.png", ".git/3.png", "notes.txt", "out/old.png"]


@pytest.fixture
def far(tmp_path: Path) -> str:
    """Address of a folder."""
    pytest.importorskip("pyarrow", reason="pyarrow comes with vesselseg[ray]")
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path.as_uri()


def test_paths_are_planned_as_for_a_single_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("in/a/1.jpg", "in/2.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    kinds = ("mask", "fov")
    jobs = make_plan(["in"], "out", kinds=kinds, recursive=True)
    expected = [Task(j.name, {k: str(p) for k, p in j.outputs.items()}) for j in jobs]
    assert make_tasks(["in"], "out", kinds=kinds, recursive=True) == expected
    (_, task) = make_tasks(["in"], "s3://bucket/out", kinds=kinds, recursive=True)
    assert task.outputs == {
        "mask": "s3://bucket/out/a/1.png",
        "fov": "s3://bucket/out/a/1_fov.png",
    }


def test_images_behind_an_address_keep_their_place(far: str) -> None:
    tasks = make_tasks([far], f"{far}/out", recursive=True)
    assert tasks == [
        Task(f"{far}/1.jpg", {"mask": f"{far}/out/1.png"}),
        Task(f"{far}/sub/2.TIF", {"mask": f"{far}/out/sub/2.png"}),
    ]
    assert [t.name for t in make_tasks([far], f"{far}/out")] == [f"{far}/1.jpg"]


def test_a_file_behind_an_address_goes_to_out_itself(far: str) -> None:
    (task,) = make_tasks([f"{far}/sub/2.TIF"], "out", kinds=("mask", "overlay"))
    expected = {"mask": str(Path("out/2.png")), "overlay": str(Path("out/2_overlay.png"))}
    assert task == Task(f"{far}/sub/2.TIF", expected)
    (missing,) = make_tasks([f"{far}/gone.png"], "out")  # told when its turn comes
    assert missing.name == f"{far}/gone.png"


def test_two_images_may_not_write_one_file(far: str) -> None:
    with pytest.raises(OptionError, match="would both write"):
        make_tasks([f"{far}/1.jpg", f"{far}/sub/1.png"], "out")
    assert len(make_tasks([f"{far}/1.jpg", f"{far}/1.jpg"], "out")) == 1


def test_an_image_is_not_overwritten_by_its_result(far: str) -> None:
    with pytest.raises(OptionError, match="overwritten"):
        make_tasks([f"{far}/out/old.png"], f"{far}/out")


def test_nothing_to_do_is_told(far: str) -> None:
    with pytest.raises(OptionError, match="nothing to segment"):
        make_tasks([f"{far}/sub"], f"{far}/sub")
    with pytest.raises(OptionError, match="Standard input"):
        make_tasks(["-"], "out")


def test_an_unknown_scheme_is_told(far: str) -> None:
    del far
    with pytest.raises(OptionError, match="no address that can be opened"):
        make_tasks(["nonsense://bucket/eye.png"], "out")


def test_a_query_stays_at_the_end() -> None:
    folder = "s3://bucket/eyes/?region=eu"
    assert storage.join(folder, "a", "1.png") == "s3://bucket/eyes/a/1.png?region=eu"
    assert storage.is_below(storage.join(folder, "1.png"), folder)
    assert not storage.is_below("s3://bucket/eyes2/1.png", folder)


@pytest.mark.parametrize("scheme", ["file", "local"])  # pyarrow's, and one of fsspec alone
def test_files_are_read_and_written(far: str, scheme: str) -> None:
    folder = far.replace("file://", f"{scheme}://")
    storage.write_bytes(f"{folder}/new/folder/file", b"content")
    assert storage.read_bytes(f"{folder}/new/folder/file") == b"content"
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(f"{folder}/gone")
