"""Files that are written whole or not at all, and their digests."""

import os
import subprocess
import sys

import pytest

from vesselseg import OutputError
from vesselseg.files import remove_abandoned, sha256, whole_file


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
