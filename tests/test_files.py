"""Files that are written whole or not at all, and their digests."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vesselseg import DownloadError, ImageError, OutputError
from vesselseg.batch.table import Table
from vesselseg.files import make_folder, remove_abandoned, sha256, whole_file
from vesselseg.images import decode


def test_the_file_appears_when_all_is_written(tmp_path):
    target = tmp_path / "result"
    with whole_file(target) as part:
        part.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_what_stood_there_stays_when_it_fails(error, tmp_path):
    target = tmp_path / "result"
    target.write_text("older")

    def fail():
        with whole_file(target) as part:
            part.write_text("half")
            raise error

    with pytest.raises((OutputError, KeyboardInterrupt)):
        fail()
    assert target.read_text() == "older"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("a bug"), FileNotFoundError(2, "No such file", "photograph.jpg"), KeyError("x"),
     ImageError("damaged"), DownloadError("no answer")],
)  # fmt: skip
def test_errors_about_something_else_pass_unchanged(error, tmp_path):
    def fail():
        with whole_file(tmp_path / "result") as part:
            part.touch()
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert not list(tmp_path.iterdir())


def test_an_error_that_the_system_has_no_words_for_is_given_in_its_own(tmp_path):
    with (
        pytest.raises(OutputError, match=r"result' cannot be written: the disk is odd\.$"),
        whole_file(tmp_path / "result"),
    ):
        raise OSError("the disk is odd")


class TestOpenOnWindows:
    """Windows refuses to replace a file that a program has open."""

    @pytest.fixture
    def replace(self, monkeypatch):
        """`refuse(n)` lets so many attempts fail; returns the list of attempts."""
        original = Path.replace
        monkeypatch.setattr("time.sleep", lambda _: None)

        def refuse(count, platform="win32"):
            monkeypatch.setattr(sys, "platform", platform)
            attempts = []

            def replace(part, path):
                attempts.append(path)
                if len(attempts) <= count:
                    raise PermissionError(13, "Access is denied", str(part), 5, str(path))
                return original(part, path)

            monkeypatch.setattr(Path, "replace", replace)
            return attempts

        return refuse

    def write(self, path):
        with whole_file(path) as part:
            part.write_text("new")

    def test_for_a_moment_it_is_tried_again(self, replace, tmp_path):
        attempts = replace(2)
        self.write(tmp_path / "a")
        assert (tmp_path / "a").read_text() == "new"
        assert len(attempts) == 3

    def test_for_long_the_error_says_what_to_do(self, replace, tmp_path):
        (tmp_path / "a").write_text("old")
        replace(99)
        with pytest.raises(OutputError, match=r"cannot be written.* Close it if another program"):
            self.write(tmp_path / "a")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]

    def test_other_systems_say_no_for_good(self, replace, tmp_path):
        attempts = replace(1, "linux")
        with pytest.raises(OutputError, match=r"cannot be written: .*\.$"):
            self.write(tmp_path / "a")
        assert len(attempts) == 1

    def test_a_table_is_gone_on_with(self, monkeypatch, tmp_path):
        original, refused = Path.open, []

        def open_late(path, *arguments, **options):
            if arguments == ("ab",) and len(refused) < 2:
                refused.append(path)
                raise PermissionError(13, "Access is denied", str(path))
            return original(path, *arguments, **options)

        monkeypatch.setattr("time.sleep", lambda _: None)
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setattr(Path, "open", open_late)
        table = Table(str(tmp_path / "m.jsonl"))
        table.begin([])
        table.add({"input": "eye.png"})
        assert Table(str(tmp_path / "m.jsonl")).rows == [{"input": "eye.png"}]
        assert len(refused) == 2


class TestNamesOnWindows:
    """What Linux has as a name can be a device, another file or none at all on Windows."""

    @pytest.fixture(autouse=True)
    def windows(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "win32")

    @pytest.mark.parametrize(
        "name",
        ["con.png", "NUL", "aux.tar.gz", "COM1 .png", "lpt\u00b9.png", "conin$", "scan 10:30.png",
         "what?.png", "x*.png", "dot.", "space ", "a<b>.png", 'quote".png', "tab\t.png",
         "sub./eye.png", "nul/eye.png"],
    )  # fmt: skip
    def test_are_not_written_elsewhere(self, name, tmp_path, monkeypatch):
        with pytest.raises(OutputError, match="Windows has no files and folders named"):
            make_folder(tmp_path / name)
        monkeypatch.setattr(sys, "platform", "linux")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        monkeypatch.setattr(sys, "platform", "win32")
        with (
            pytest.raises(OutputError, match="Windows has no files and folders named"),
            whole_file(tmp_path / name),
        ):
            raise AssertionError
        assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    @pytest.mark.parametrize(
        "name", ["con1.png", "common.png", "a..png", ".eye.png", "a b.png", "com.png", "\u773c.png"]
    )
    def test_that_look_alike_are_written(self, name, tmp_path):
        make_folder(tmp_path / "sub")
        with whole_file(tmp_path / "sub" / ".." / name) as part:
            part.touch()
        assert (tmp_path / name).exists()

    def test_too_long_say_so(self, tmp_path):
        """Windows says that it finds no such file."""
        folder = tmp_path / "/".join(["x" * 60] * 4)
        folder.mkdir(parents=True)

        def write(path):
            with whole_file(path) as part:
                assert len(part.name) <= 33
                raise FileNotFoundError(2, "No such file or directory", str(part))

        for path in (folder / "eye.png", folder / "missing" / "eye.png"):
            with pytest.raises(OutputError, match=r"has \d{3} characters; Windows allows 259"):
                write(path)
        with pytest.raises(OutputError, match=r"No such file or directory\.$"):
            write(tmp_path / "eye.png")
        with pytest.raises(FileNotFoundError, match=r"Its path has \d{3} characters"):
            decode(folder / "eye.png")
        with pytest.raises(FileNotFoundError, match=r"There is no image '.*eye\.png'\.$"):
            decode(tmp_path / "eye.png")

    @pytest.mark.parametrize(("length", "is_too_long"), [(259, False), (260, True)])
    def test_that_are_as_long_as_allowed_do_not(self, length, is_too_long, tmp_path):
        (tmp_path / "file").touch()
        above = str(tmp_path / "file")
        with pytest.raises(OutputError, match="cannot be created") as caught:
            make_folder(Path(above, "x" * (length - len(above) - 1)))
        assert (f"has {length} characters" in str(caught.value)) == is_too_long


def test_has_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").write_text("")
    with whole_file(tmp_path / "ours") as part:
        part.write_text("")
    modes = {path.stat().st_mode for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(tmp_path / "file") == digest


@pytest.mark.skipif(os.name != "posix", reason="processes are looked up on POSIX systems only")
def test_parts_of_processes_that_are_gone_are_removed(tmp_path):
    code = "import sys, time; from vesselseg.files import whole_file\n"
    code += "with whole_file(sys.argv[1]) as part:\n"
    code += "    part.touch(); print(flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, str(tmp_path / "mask.png")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        remove_abandoned(tmp_path)
        assert len(list(tmp_path.iterdir())) == 1  # it may still be finished
        writer.kill()
    others = tmp_path / ".of-another-host.part"
    others.touch()
    with whole_file(tmp_path / "mine.png") as mine:
        mine.touch()
        remove_abandoned(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([mine, others])
    remove_abandoned(tmp_path / "missing")
