"""Folders that cannot be written, and disks that are full."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest
from support.servers import sha256, sidecar_of

import vesselseg
from vesselseg import DownloadError

# Raises where a file would be written in these folders; also when the tests run as root, whom
# permissions do not stop. A hook cannot be removed, so there is one for all tests.
READ_ONLY = set()


def forbid_writing(event, arguments):
    if READ_ONLY and event in ("open", "os.mkdir", "os.rename", "os.remove", "os.utime"):
        writes = event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and any(str(arguments[0]).startswith(folder) for folder in READ_ONLY):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), arguments[0])


sys.addaudithook(forbid_writing)


class TestDisk:
    @pytest.fixture
    def read_only(self):
        yield lambda folder: READ_ONLY.add(str(folder))
        READ_ONLY.clear()

    def test_a_read_only_cache_that_has_the_file_works(self, spec, home, read_only, content):
        path = vesselseg.download(spec)
        read_only(home)
        assert vesselseg.download(spec) == path
        READ_ONLY.clear()
        os.utime(path, ns=(5, 5))
        (home / "original.pth").write_bytes(content)
        read_only(home)
        assert vesselseg.download(spec) == path  # hashed each time
        assert sidecar_of(path)["mtime_ns"] != 5
        with pytest.raises(DownloadError, match="cannot be written to the cache folder"):
            vesselseg.download(spec, force=True)
        assert path.read_bytes() == content

    @pytest.mark.skipif(os.access("/", os.W_OK), reason="root may write everywhere")
    def test_a_folder_without_permission_is_reported(self, spec, home):
        path = vesselseg.download(spec)
        home.chmod(0o555)
        assert vesselseg.download(spec) == path
        with pytest.raises(DownloadError, match="VESSELSEG_HOME"):
            vesselseg.download(spec, force=True)
        home.chmod(0o755)

    @pytest.mark.parametrize("where", ["a file", "read-only"])
    def test_a_folder_that_cannot_be_created_is_reported(
        self, where, spec, home, read_only, monkeypatch
    ):
        if where == "a file":
            home.write_text("not a folder")
            monkeypatch.setenv("VESSELSEG_HOME", str(home / "below"))
        else:
            read_only(home)
        with pytest.raises(DownloadError) as caught:
            vesselseg.download(spec)
        assert str(home) in str(caught.value)
        assert "set VESSELSEG_HOME to another folder" in str(caught.value)

    def test_a_full_disk_is_reported_and_the_download_resumes_later(
        self, spec, home, server, content, monkeypatch
    ):
        room = 5 * (1 << 16)
        usual = Path.open

        class Full(io.FileIO):
            """A file on a disk with little room."""

            def write(self, chunk):
                if self.tell() + len(chunk) > room:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return super().write(chunk)

        def open_(path, mode="r", *arguments, **options):
            if path.suffix == ".part" and "r" not in mode:
                return Full(path, mode)
            return usual(path, mode, *arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", open_)
            with pytest.raises(DownloadError, match=rf"{home}.*No space left.*VESSELSEG_HOME"):
                vesselseg.download(spec)
            assert not list(home.glob("*.pth"))
        assert vesselseg.download(spec).read_bytes() == content
        assert server.requests[-1].headers["Range"] == f"bytes={room}-"

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
    def test_a_full_disk_leaves_no_partial_copy(self, spec, home, content, tmp_path):
        (tmp_path / "copy.pth").write_bytes(content)
        key = sha256(str(tmp_path / "copy.pth").encode())[:12]
        home.mkdir()
        (home / f"current.pth.{key}.part").symlink_to("/dev/full")
        with pytest.raises(DownloadError, match="No space left"):
            vesselseg.import_file(tmp_path / "copy.pth", spec)
        assert [path.name for path in home.iterdir()] == [".locks"]
