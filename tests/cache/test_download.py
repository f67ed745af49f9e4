"""The cache: what is accepted, what is kept, and which digests bind."""

import dataclasses
import json
import logging
import os
import stat
from pathlib import Path

import pytest
import torch
from loopback import File
from published_layout import narrow_shapes, seeded_state
from serving import note_of, sha256

import vesselseg
from vesselseg import CheckpointError, DownloadError, OptionError, Source, cache
from vesselseg.registry import EMBEDDED

pytestmark = pytest.mark.usefixtures("home")


class TestFolder:
    def test_is_the_users_cache_folder_unless_it_is_set(self, monkeypatch, tmp_path):
        monkeypatch.delenv("VESSELSEG_HOME", raising=False)
        assert cache.cache_folder().name in ("vesselseg", "Cache")
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path / "here"))
        assert cache.cache_folder() == tmp_path / "here"
        monkeypatch.setenv("VESSELSEG_HOME", "~/there")
        assert cache.cache_folder() == Path.home() / "there"

    def test_files_have_ordinary_permissions(self, record, home):
        mask = os.umask(0)
        os.umask(mask)
        for path in (cache.download(record), home / "current.pth.json"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask

    def test_the_note_says_what_came_from_where(self, record, content):
        path = cache.download(record)
        note = note_of(path)
        assert note.pop("date").endswith("+00:00")
        assert note == {
            "sha256": sha256(content),
            "size": len(content),
            "mtime_ns": path.stat().st_mtime_ns,
            "model": "narrow",
            "address": record.sources[0].url,
            "obtained_from": record.sources[0].url,
        }


class TestCached:
    def test_a_file_that_is_there_is_not_read_again(self, record, monkeypatch):
        path = cache.download(record)
        monkeypatch.setattr("vesselseg.cache.accept.sha256", None)
        assert cache.download(record) == cache.cached(record) == path

    def test_another_time_is_hashed_again_once(self, record, server):
        path = cache.download(record)
        os.utime(path, ns=(5, 5))
        assert cache.download(record) == path
        assert note_of(path)["mtime_ns"] == 5
        assert len(server.requests) == 1

    def test_a_damaged_file_is_obtained_anew(self, record, content, caplog):
        path = cache.download(record)
        path.write_bytes(content[:-100])
        assert cache.cached(record) is None
        assert cache.download(record).read_bytes() == content
        assert "current.pth: Is there, but cannot be used. Its SHA-256 is" in caplog.text

    @pytest.mark.parametrize("name", ["current.pth", "original.pth"])
    def test_a_file_put_there_by_hand_is_looked_at_and_noted(
        self, name, record, home, server, content, monkeypatch
    ):
        home.mkdir()
        (home / name).write_bytes(content)
        assert cache.cached(record) == cache.download(record) == home / name
        assert note_of(home / name)["obtained_from"] == "by hand"
        assert not server.requests
        monkeypatch.setattr("vesselseg.weights.read", None)
        assert cache.cached(record) == home / name

    def test_rubbish_put_there_by_hand_is_not_used(self, record, home, content, monkeypatch):
        home.mkdir()
        (home / "original.pth").write_bytes(b"rubbish")
        assert cache.cached(record) is None
        monkeypatch.setenv("VESSELSEG_OFFLINE", "1")
        with pytest.raises(DownloadError, match=r"'original\.pth' is damaged or not a PyTorch"):
            cache.download(record)
        monkeypatch.delenv("VESSELSEG_OFFLINE")
        assert cache.download(record).read_bytes() == content

    def test_weights_of_another_network_are_not_used(self, record, home):
        home.mkdir()
        torch.save(
            {"state_dict": seeded_state(narrow_shapes("pspnet", 8), 1)}, home / "current.pth"
        )
        assert cache.cached(record) is None

    @pytest.mark.parametrize("text", ["{", "[]", '{"sha256": "abc"}'])
    def test_a_note_that_is_none_is_ignored(self, text, record, home, content, caplog):
        home.mkdir()
        (home / "current.pth").write_bytes(content)
        (home / "current.pth.json").write_text(text)
        assert cache.cached(record) == home / "current.pth"
        assert "is not a note" in caplog.text
        assert note_of(home / "current.pth")["sha256"] == sha256(content)

    def test_segmenting_uses_it(self, record, photograph, server):
        for _ in range(2):
            assert vesselseg.load_model(record, device="cpu")(photograph).mask.shape == (283, 283)
        assert len(server.requests) == 1


class TestDigests:
    def test_a_pinned_one_binds(self, record, server, home, content, other):
        server.serve("/current.pth", File(other))
        sources = tuple(Source(s.url, sha256=sha256(content).upper()) for s in record.sources)
        pinned = dataclasses.replace(record, sources=sources)
        assert cache.download(pinned) == home / "original.pth"
        assert not (home / "current.pth").exists()

    def test_one_pinned_later_replaces_the_file_and_says_so(
        self, record, server, content, other, caplog
    ):
        server.serve("/current.pth", File(other), File(content))
        cache.download(record)
        pinned = (Source(record.sources[0].url, sha256=sha256(content)),)
        path = cache.download(dataclasses.replace(record, sources=pinned))
        assert path.read_bytes() == content
        assert f"{sha256(other)}, but {sha256(content)} stands in the model's record" in caplog.text

    def test_the_digits_of_a_name_only_warn(self, record, caplog):
        doubtful = (Source(record.sources[0].url, digits="0badc0de"),)
        cache.download(dataclasses.replace(record, sources=doubtful))
        (warning,) = [entry for entry in caplog.records if entry.levelno == logging.WARNING]
        assert "does not begin with 0badc0de" in warning.message
        assert warning.name.startswith("vesselseg.")
        caplog.clear()
        cache.download(dataclasses.replace(record, sources=doubtful))
        assert not caplog.records  # told once

    def test_right_digits_say_nothing(self, record, content, caplog):
        right = (Source(record.sources[0].url, digits=sha256(content)[:8]),)
        cache.download(dataclasses.replace(record, sources=right))
        assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]

    @pytest.mark.parametrize("keep", [True, False], ids=["file and note", "note alone"])
    def test_a_changed_file_never_replaces_an_older_one(self, keep, record, server, content, other):
        only = dataclasses.replace(record, sources=record.sources[:1])
        path = cache.download(only)
        if not keep:
            path.unlink()
        server.serve("/current.pth", File(other))
        with pytest.raises(DownloadError, match=f"{sha256(other)}, but {sha256(content)} is noted"):
            cache.download(only, force=True)
        assert not keep or path.read_bytes() == content
        cache.clear(only)  # whoever trusts the new one
        assert cache.download(only).read_bytes() == other

    def test_force_obtains_the_same_file_again(self, record, server):
        path = cache.download(record)
        before = path.stat().st_mtime_ns
        assert cache.download(record, force=True) == path
        assert path.stat().st_mtime_ns != before
        assert len(server.requests) == 2

    def test_force_lets_a_file_without_a_note_bind(self, record, home, content, other):
        home.mkdir()
        (home / "current.pth").write_bytes(other)
        only = dataclasses.replace(record, sources=record.sources[:1])
        with pytest.raises(DownloadError, match=f"{sha256(content)}, but {sha256(other)} is noted"):
            cache.download(only, force=True)
        assert (home / "current.pth").read_bytes() == other

    def test_a_note_brought_from_another_machine_binds(self, record, home, other):
        """Without a note the first digest is trusted; with one, only that one."""
        home.mkdir()
        (home / "current.pth.json").write_text(json.dumps({"sha256": sha256(other)}))
        assert cache.download(record) == home / "original.pth"

    def test_one_file_name_of_two_models_is_not_mixed_up(self, record, server, other):
        cache.download(record)
        url = server.serve("/elsewhere/current.pth", File(other))
        mine = dataclasses.replace(record, name="mine", sources=(Source(url),))
        assert cache.cached(mine) is None
        with pytest.raises(DownloadError, match="for another model, 'narrow'"):
            cache.download(mine)
        shared = dataclasses.replace(record, name="other windows", stride=64)
        assert cache.cached(shared) is not None  # the same file, used otherwise


class TestImport:
    def test_a_file_of_any_name_is_taken_in(self, record, home, content, tmp_path):
        (tmp_path / "from usb.bin").write_bytes(content)
        path = cache.import_file(tmp_path / "from usb.bin", record)
        assert path == home / "current.pth"
        assert note_of(path)["obtained_from"] == str(tmp_path / "from usb.bin")
        assert cache.cached(record) == path

    def test_its_name_or_digest_says_which_it_is(self, record, home, content, tmp_path):
        for name in ("original.pth", "x"):
            (tmp_path / name).write_bytes(content)
        assert cache.import_file(tmp_path / "original.pth", record) == home / "original.pth"
        current, original = record.sources
        known = (
            dataclasses.replace(current, digits="00000000"),
            dataclasses.replace(original, digits=sha256(content)[:8]),
        )
        record = dataclasses.replace(record, sources=known)
        assert cache.import_file(tmp_path / "x", record) == home / "original.pth"

    def test_a_wrong_file_is_refused(self, record, home, tmp_path, other):
        path = cache.download(record)
        (tmp_path / "page.pth").write_text("<html>")
        (tmp_path / "other.pth").write_bytes(other)
        with pytest.raises(CheckpointError, match=r"page\.pth' was not taken .* page of text"):
            cache.import_file(tmp_path / "page.pth", record)
        with pytest.raises(CheckpointError, match="is noted in"):
            cache.import_file(tmp_path / "other.pth", record)
        assert sha256(path.read_bytes()) != sha256(other)
        assert not list(home.glob("*.part"))
        with pytest.raises(FileNotFoundError, match="no file"):
            cache.import_file(tmp_path / "absent.pth", record)
        with pytest.raises(OptionError, match="part of the package"):
            cache.import_file(tmp_path / "other.pth", EMBEDDED)


class TestClear:
    def test_removes_only_what_is_ours(self, record, home):
        cache.download(record)
        (home / "current.pth.0123456789ab.part").write_bytes(b"part")
        for name in ("mine.pth", "settings.json", "letter.txt"):
            (home / name).write_text("{}")
        names = ["current.pth", "current.pth.0123456789ab.part", "current.pth.json"]
        assert [path.name for path in cache.contents()] == names
        assert [path.name for path in cache.clear()] == names
        rest = {path.name for path in home.iterdir() if path.is_file()}
        assert rest == {"mine.pth", "settings.json", "letter.txt"}
        assert cache.clear() == []

    def test_of_one_model(self, record, home, server, content):
        cache.download(record)
        url = server.serve("/second.pth", File(content))
        second = dataclasses.replace(record, name="second", sources=(Source(url),))
        cache.download(second)
        cache.clear(second)
        assert [path.name for path in home.glob("*.pth")] == ["current.pth"]

    def test_leaves_what_is_being_downloaded(self, record, caplog):
        def clear(done, _):
            if done:
                assert cache.clear() == []

        assert cache.download(record, progress=clear).exists()
        assert "is being downloaded and stays" in caplog.text
