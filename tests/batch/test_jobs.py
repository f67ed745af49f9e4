"""Which images a command line means, and where their results go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from support.dicom import content, dataset, dicom_file
from support.drawn import photograph, photographs

from vesselseg import ImageError, OptionError, Segmentation
from vesselseg.batch import places
from vesselseg.batch.jobs import Job, plan_jobs
from vesselseg.batch.table import Table
from vesselseg.cli.collection import printable
from vesselseg.formats import endings


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*inputs: str, out: str = "out", **options: object) -> dict[str, str]:
    jobs = plan_jobs(inputs, out, **options)
    return {Path(job.name).as_posix(): Path(job.outputs["mask"]).as_posix() for job in jobs}


def result_of_vesselseg(path: Path) -> None:
    nothing = np.zeros((8, 8), dtype=bool)
    picture = np.zeros((8, 8, 3), dtype=np.uint8)
    provenance = {"vesselseg": "1", "model": "tiny"}
    Segmentation(nothing, nothing.astype(np.float32), nothing, provenance, picture).save(path)


def test_images_given_by_name_go_to_out_itself() -> None:
    photographs(Path(), ["a/eye.jpg", "b/other.eye.tif"])
    assert planned("a/eye.jpg", "b/other.eye.tif", "-") == {
        "-": "out/stdin.png",
        "a/eye.jpg": "out/eye.png",
        "b/other.eye.tif": "out/other.eye.png",
    }


def test_a_folder_gives_its_images_and_recursive_those_below_in_their_places() -> None:
    photographs(Path("p"), ["eye.JPG", "sub/deep/eye.png"])
    assert planned("p") == {"p/eye.JPG": "out/eye.png"}
    assert planned("p", recursive=True) == {
        "p/eye.JPG": "out/eye.png",
        "p/sub/deep/eye.png": "out/sub/deep/eye.png",
    }


def test_of_a_folder_only_visible_files_with_the_ending_of_an_image_are_taken() -> None:
    folder = Path("p")
    folder.mkdir()
    for i, suffix in enumerate(endings()):
        (folder / f"{i}{suffix.upper() if i % 2 else suffix}").touch()
    for name in ("notes.txt", "._eye.jpg", "eye"):  # the second is what macOS leaves
        (folder / name).touch()
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "eye.jpg").touch()
    assert len(planned("p", recursive=True)) == len(endings())


def test_a_file_given_by_name_is_tried_whatever_its_name_even_if_it_is_missing() -> None:
    photographs(Path(), ["eye[1].png", "eye1.png"])
    Path("photograph").touch()
    assert list(planned("photograph", "missing.jpg")) == ["missing.jpg", "photograph"]
    assert list(planned("eye[1].png")) == ["eye[1].png"]


def test_patterns_are_expanded_and_keep_the_folders_below_their_fixed_part() -> None:
    photographs(Path("p"), ["a/1.png", "b/1.png", "b/2.jpg", "b/sub/3.png"])
    Path("p/a/notes.txt").touch()
    assert planned("p/*/1.png") == {"p/a/1.png": "out/a/1.png", "p/b/1.png": "out/b/1.png"}
    assert list(planned("p/**/*")) == ["p/a/1.png", "p/b/1.png", "p/b/2.jpg", "p/b/sub/3.png"]
    assert planned("p/b/*") == {"p/b/1.png": "out/1.png", "p/b/2.jpg": "out/2.png"}
    assert planned("p/*", recursive=True) == planned("p", recursive=True)


def test_a_single_image_may_have_a_file_as_out() -> None:
    photographs(Path(), ["eye.jpg"])
    (job,) = plan_jobs(["eye.jpg"], "x/vessels.png", kinds=("mask", "overlay", "fov"))
    assert job.outputs == {
        "mask": "x/vessels.png",
        "overlay": "x/vessels_overlay.png",
        "fov": "x/vessels_fov.png",
    }
    assert planned("eye.jpg", out="VESSELS.PNG") == {"eye.jpg": "VESSELS.PNG"}
    (job,) = plan_jobs(["eye.jpg"], "x/a.b.TIF", kinds=("mask", "fov"))
    assert job.outputs == {"mask": "x/a.b.TIF", "fov": "x/a.b_fov.TIF"}
    assert planned("eye.jpg", out="vessels.npy") == {"eye.jpg": "vessels.npy"}
    Path("folder.png").mkdir()
    assert planned("eye.jpg", out="folder.png") == {"eye.jpg": "folder.png/eye.png"}


@pytest.mark.slow
def test_of_a_folder_dicom_photographs_of_any_name_are_taken_and_no_other_dicom_files() -> None:
    folder = Path("p")
    folder.mkdir()
    file = dicom_file(photograph(1))
    for name in ("eye.dcm", "IM000001", "1.2.840.1", "1.2.840.2", ".hidden"):
        (folder / name).write_bytes(file)
    (folder / "damaged.dcm").write_bytes(b"damaged")
    for name in ("ct.dcm", "CT000001"):
        other = dataset(photograph(1), SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
        (folder / name).write_bytes(content(other))
    nothing = np.zeros((40, 44), dtype=bool)
    provenance = {"vesselseg": "1", "model": "tiny", "sha256": "0"}
    result = Segmentation(nothing, nothing.astype(np.float32), nothing, provenance, photograph(1))
    result.save_dicom(folder / "eye_seg.dcm", file)
    assert planned("p") == {
        "p/1.2.840.1": "out/1.2.840.1.png",
        "p/1.2.840.2": "out/1.2.840.2.png",
        "p/IM000001": "out/IM000001.png",
        "p/damaged.dcm": "out/damaged.png",
        "p/eye.dcm": "out/eye.png",
    }


def test_a_dicom_segmentation_is_named_after_the_photograph_or_is_the_mask() -> None:
    Path("eye.dcm").touch()
    (job,) = plan_jobs(["eye.dcm"], "out", kinds=("mask", "dicom"))
    assert job.outputs == {"mask": str(Path("out/eye.png")), "dicom": str(Path("out/eye_seg.dcm"))}
    (job,) = plan_jobs(["eye.dcm"], "x/vessels.DCM", kinds=("mask", "overlay"))
    assert job.outputs == {"mask": "x/vessels.DCM", "overlay": "x/vessels_overlay.png"}


@pytest.mark.parametrize(
    ("inputs", "out", "said"),
    [
        (["a.jpg", "b.jpg"], "out.png", "takes the result of a single photograph"),
        (["folder"], "out.png", "takes the result of a single photograph"),
        (["a.jpg"], "x.jpg", r"'x.jpg' cannot be written: results are .png, .tif"),
        (["a.jpg", "folder/a.jpg"], "out", r"'a.jpg' and 'folder/a.jpg' would both write 'out/a"),
        (["a.jpg", "folder/a.jpg"], "out", r"folders of their own, or pass the folder above both"),
        (["folder"], "out", r"'folder/a.jpg' and 'folder/a.tif' would both write 'out/a.png'"),
        (["folder"], "out", r"folders of their own\.$"),
        (["nonsense://bucket/eye.png"], "out", "not an address that can be opened"),
    ],
)
def test_outputs_that_cannot_be_are_rejected(inputs: list[str], out: str, said: str) -> None:
    photographs(Path(), ["a.jpg", "b.jpg", "folder/a.jpg", "folder/a.tif"])
    with pytest.raises(OptionError, match=said):
        plan_jobs(inputs, out)


def test_a_picture_of_one_image_and_the_mask_of_another_may_not_meet_either() -> None:
    photographs(Path(), ["eye.jpg", "eye_overlay.jpg"])
    assert len(planned("eye.jpg", "eye_overlay.jpg")) == 2
    with pytest.raises(OptionError, match=r"would both write 'out/eye_overlay.png'"):
        plan_jobs(["eye.jpg", "eye_overlay.jpg"], "out", kinds=("mask", "overlay"))


def test_the_same_image_given_twice_is_done_once() -> None:
    photographs(Path(), ["p/eye.jpg"])
    assert len(plan_jobs(["p", "p/eye.jpg", "./p/../p/eye.jpg"], "out")) == 1


@pytest.mark.parametrize("out", ["p", "p/eye.png"])
def test_no_photograph_is_overwritten(out: str) -> None:
    photographs(Path(), ["p/eye.png"])
    with pytest.raises(OptionError, match=r"'p/eye.png' would be overwritten by the result of"):
        plan_jobs(["p/eye.png"], out)


def test_results_among_the_photographs_are_no_photographs() -> None:
    photographs(Path("p"), ["eye.jpg", "sub/other.png"])
    before = plan_jobs(["p"], "p", recursive=False)
    result_of_vesselseg(Path("p/eye.png"))
    Path("p/earlier").mkdir()
    result_of_vesselseg(Path("p/earlier/eye.png"))
    result_of_vesselseg(Path("p/earlier/eye.tif"))
    assert plan_jobs(["p"], "p") == before
    assert list(planned("p", recursive=True)) == ["p/eye.jpg", "p/sub/other.png"]
    assert list(planned("p/**/*")) == ["p/eye.jpg", "p/sub/other.png"]
    assert list(planned("p/eye.png")) == ["p/eye.png"]  # by name it is meant


@pytest.mark.parametrize("text", ["empty", "empty/*.png", "nowhere/**/*"])
def test_where_there_is_no_image_at_all_it_is_said_what_is_taken(text: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(OptionError, match=r"nothing to segment in .*\.jpg.*--recursive"):
        plan_jobs([text], "out")


def test_one_empty_folder_among_others_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    photographs(Path("p"), ["eye.jpg"])
    Path("empty").mkdir()
    assert len(plan_jobs(["empty", "p"], "out")) == 1
    assert "no photographs in 'empty'" in caplog.text


def test_a_folder_that_cannot_be_read_is_not_passed_over(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    photographs(Path("p"), ["eye.jpg", "closed/other.jpg"])
    closed, listed = Path("p"), Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:
        if folder == closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(ImageError, match=r"folder 'p' cannot be read: Permission denied"):
        plan_jobs(["p"], "out")
    closed = Path("p/closed")
    assert list(planned("p", recursive=True)) == ["p/eye.jpg"]
    assert "1 left out of 'p': 1 unreadable, Permission denied ('closed')" in caplog.text


class TestLeftOut:
    """Every run says how many files it leaves out, and why."""

    def test_is_said_with_the_reasons(self, caplog: pytest.LogCaptureFixture) -> None:
        photographs(Path("p"), ["eye.jpg", "sub/.hidden.jpg"])
        for name in ("a.heic", "b.svg", "c.nii.gz", "d.txt", "ct.dcm"):
            Path("p", name).touch()
        Path("p/ct.dcm").write_bytes(content(dataset(photograph(1), SOPClassUID="1.2.3")))
        os.mkfifo("p/pipe.png")
        Path("p/link.png").symlink_to("pipe.png")
        result_of_vesselseg(Path("p/mask.png"))
        for text in ("p", "p/**/*"):
            caplog.clear()
            assert list(planned(text, recursive=True)) == ["p/eye.jpg"]
            (record,) = caplog.records
            assert record.levelname == "WARNING"
            for said in (
                "4 of another ending ('a.heic', 'b.svg', 'c.nii.gz', ...)",
                "2 not a file but a pipe or a device",
                "1 not a photograph by the content ('ct.dcm')",
                "1 written by vesselseg ('mask.png')",
            ):
                assert said in record.message

    def test_is_no_warning_if_it_is_as_usual(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO")
        photographs(Path("p"), ["eye.jpg", ".DS_Store.png"])
        result_of_vesselseg(Path("p/eye.png"))
        assert list(planned("p")) == ["p/eye.jpg"]
        (record,) = caplog.records
        assert (record.levelname, record.message[:18]) == ("INFO", "2 left out of 'p':")

    def test_at_addresses_too(self, caplog: pytest.LogCaptureFixture) -> None:
        photographs(Path("p"), ["eye.jpg", ".git/x.png"])
        Path("p/notes.txt").touch()
        plan_jobs([Path("p").absolute().as_uri()], "out", recursive=True)
        assert "1 of another ending ('notes.txt')" in caplog.text
        assert "1 hidden ('x.png')" in caplog.text


class TestLinks:
    def test_to_folders_are_followed_once(self, caplog: pytest.LogCaptureFixture) -> None:
        photographs(Path("p"), ["x.png", "real/r.png"])
        photographs(Path("elsewhere"), ["deep/e.png"])
        for link, target in [
            ("patient", "../elsewhere"), ("again", "../elsewhere"), ("loop", "."), ("up", ".."),
            ("a-link", "real"), ("gone", "nowhere"), ("self", "self"), ("real/back", ".."),
        ]:  # fmt: skip
            Path("p", link).symlink_to(target)
        assert list(planned("p", recursive=True)) == [
            "p/again/deep/e.png", "p/real/r.png", "p/x.png",
        ]  # fmt: skip
        for link in ("a-link", "back", "loop", "patient", "up"):
            assert f"{link!r}" in caplog.text or "..." in caplog.text
        assert "5 linked to a folder that is searched already" in caplog.text

    def test_of_photographs_are_taken_and_fail_in_their_turn_if_they_lead_nowhere(self) -> None:
        photographs(Path("p"), ["x.png"])
        for name, target in (("same.png", "x.png"), ("gone.png", "no"), ("self.png", "self.png")):
            Path("p", name).symlink_to(target)
        assert list(planned("p")) == ["p/gone.png", "p/same.png", "p/self.png", "p/x.png"]
        assert list(planned("p/*")) == list(planned("p"))

    @pytest.mark.parametrize("pattern", ["p/**/*.png", "p/*/*.png", "p/*", "**/*.png", "p/**"])
    def test_in_loops_end(self, pattern: str) -> None:
        photographs(Path("p"), ["x.png", "real/r.png"])
        for link in ("loop", "real/again", "real/and-again"):
            Path("p", link).symlink_to(Path("p").absolute())
        found = planned(pattern, recursive=pattern == "p/*")
        assert {*found} - {"p/x.png"} == {"p/real/r.png"}


@pytest.mark.parametrize(
    "name", ["scan [2024]", "[abc]", "a*b", "what?", "[", "**", "x[!y]", "[[]", "{a,b}"]
)
def test_folders_may_have_names_that_look_like_patterns(name: str) -> None:
    photographs(Path("top", name), ["1.jpg", "sub [x]/2.jpg"])
    assert list(planned(f"top/{name}/*.jpg")) == [f"top/{name}/1.jpg"]
    assert list(planned(f"top/{name}/sub [x]/*.jpg")) == [f"top/{name}/sub [x]/2.jpg"]
    assert planned(f"top/{name}") == {f"top/{name}/1.jpg": "out/1.png"}


@pytest.mark.parametrize(
    "pattern",
    ["**/a.png", "**/left/a.png", "x/**/b.png", "**/x/**/a.png", "**/[ab].png", "**/c.png"],
)
def test_two_stars_stand_for_any_folders_between(pattern: str) -> None:
    names = ["a.png", "left/a.png", "left/b.png", "x/left/a.png", "x/y/b.png", "x/y/left/a.png"]
    photographs(Path("p"), [*names, "z/c.png"])
    expected = sorted(path.as_posix() for path in Path("p").glob(pattern))
    assert list(planned(f"p/{pattern}")) == expected


def test_a_pattern_without_a_match_says_how_to_write_a_bracket() -> None:
    Path("scan").mkdir()
    with pytest.raises(OptionError, match=r"\[\[\] means the character"):
        plan_jobs(["scan/*[2]/*.jpg"], "out")


@pytest.mark.parametrize("inputs", [[], [""], ["p", ""]])
def test_no_input_and_empty_text_are_errors_not_the_working_directory(inputs: list[str]) -> None:
    photographs(Path(), ["eye.jpg", "p/eye.jpg"])
    with pytest.raises(OptionError, match=r"nothing to segment|empty text"):
        plan_jobs(inputs, "out")
    with pytest.raises(OptionError, match="empty text"):
        plan_jobs(["p"], "")


def test_an_empty_folder_does_not_change_what_out_means() -> None:
    photographs(Path(), ["eye.jpg"])
    Path("empty").mkdir()
    for inputs in (["eye.jpg", "empty"], ["empty", "eye.jpg"]):
        (job,) = plan_jobs(inputs, "x.png")
        assert job.outputs["mask"] == "x.png"


# Addresses

NAMES = ["1.jpg", "sub/2.TIF", "sub/.hidden.png", ".git/3.png", "notes.txt", "out/old.png"]


@pytest.fixture
def far(tmp_path: Path) -> str:
    """Address of a folder."""
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path.as_uri()


def test_local_photographs_can_have_results_at_an_address() -> None:
    photographs(Path("in"), ["a/1.jpg", "2.png"])
    _, job = plan_jobs(["in"], "s3://bucket/out/", kinds=("mask", "fov"), recursive=True)
    assert job.outputs == {
        "mask": "s3://bucket/out/a/1.png",
        "fov": "s3://bucket/out/a/1_fov.png",
    }


def test_images_behind_an_address_keep_their_place(far: str) -> None:
    jobs = plan_jobs([far], f"{far}/out", recursive=True)
    assert jobs == [
        Job(f"{far}/1.jpg", {"mask": f"{far}/out/1.png"}),
        Job(f"{far}/sub/2.TIF", {"mask": f"{far}/out/sub/2.png"}),
    ]
    assert [t.name for t in plan_jobs([far], f"{far}/out")] == [f"{far}/1.jpg"]


def test_a_file_behind_an_address_goes_to_out_itself(far: str) -> None:
    (job,) = plan_jobs([f"{far}/sub/2.TIF"], "out", kinds=("mask", "overlay"))
    expected = {"mask": str(Path("out/2.png")), "overlay": str(Path("out/2_overlay.png"))}
    assert job == Job(f"{far}/sub/2.TIF", expected)
    (missing,) = plan_jobs([f"{far}/gone.png"], "out")  # told when its turn comes
    assert missing.name == f"{far}/gone.png"


def test_images_at_addresses_and_results_may_not_meet(far: str) -> None:
    with pytest.raises(OptionError, match="would both write"):
        plan_jobs([f"{far}/1.jpg", f"{far}/sub/1.png"], "out")
    assert len(plan_jobs([f"{far}/1.jpg", f"{far}/1.jpg"], "out")) == 1
    with pytest.raises(OptionError, match="overwritten"):
        plan_jobs([f"{far}/out/old.png"], f"{far}/out")


@pytest.mark.parametrize("out", ["/sub/out", "", "/sub"])  # below the photographs, above, beside
def test_results_of_an_earlier_run_at_an_address_are_left_out(
    out: str, far: str, here: Path
) -> None:
    (here / "sub" / "out").mkdir()
    result_of_vesselseg(here / "sub" / "out" / "2.png")
    jobs = plan_jobs([f"{far}/sub"], far + out, recursive=True)
    assert [job.name for job in jobs] == [f"{far}/sub/2.TIF"]


def test_pipes_in_folders_are_left_out(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    photographs(here / "p", ["eye.jpg"])
    os.mkfifo(here / "p" / "pipe.jpg")
    assert planned("p") == {"p/eye.jpg": "out/eye.png"}
    assert "1 left out of 'p': 1 not a file but a pipe or a device ('pipe.jpg')" in caplog.text


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_files_at_addresses_are_read_and_written(far: str, scheme: str) -> None:
    folder = far.replace("file://", f"{scheme}://")
    places.write_bytes(f"{folder}/new/folder/file", b"content")
    assert places.read_bytes(f"{folder}/new/folder/file") == b"content"
    with pytest.raises(FileNotFoundError):
        places.read_bytes(f"{folder}/gone")


@pytest.mark.parametrize("error", [PermissionError("closed"), RuntimeError("no credentials")])
def test_an_address_that_cannot_be_read_is_named_without_its_password(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    for name in ("isdir", "find"):
        monkeypatch.setattr(f"fsspec.implementations.memory.MemoryFileSystem.{name}", fail)
    address = "memory://me:secret@host/eyes"
    for call in (lambda: plan_jobs([address], "out"), lambda: Table(f"{address}/rows.csv")):
        with pytest.raises(OptionError, match=str(error)) as raised:
            call()
        assert "secret" not in str(raised.value)


def test_messages_about_addresses_have_no_passwords(caplog: pytest.LogCaptureFixture) -> None:
    folder = "memory://me:secret@host/eyes"
    places.write_bytes(f"{folder}/a.txt", b"")
    places.write_bytes(f"{folder}/sub/1.jpg", b"")
    for inputs, out in (
        ([folder], "out"),
        ([folder], f"{folder}/x.jpg"),
        ([f"{folder}/1.jpg", f"{folder}/sub/1.png"], f"{folder}/out"),
        ([f"{folder}/1.png"], folder),
    ):
        with pytest.raises(OptionError, match=r"memory://\*\*\*@host") as raised:
            plan_jobs(inputs, out)
        assert "secret" not in str(raised.value)
    assert "a.txt" in caplog.text
    assert "secret" not in caplog.text
    assert printable(folder) == "memory://***@host/eyes"


def test_a_file_at_an_address_that_cannot_be_read_is_an_error_of_its_image(here: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"There is no image 'local://.*/eye\.png'"):
        places.read_bytes(f"local://{here}/eye.png")
    (here / "eye.png").mkdir()
    with pytest.raises(ImageError, match=r"'local://.*/eye\.png' cannot be read: "):
        places.read_bytes(f"local://{here}/eye.png")
