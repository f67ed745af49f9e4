"""The cache: what is accepted, what is kept, and which digests bind."""

import dataclasses
import json
import logging
import os
import stat
from pathlib import Path

import pytest
import torch
from support.models import narrow_shapes, seeded_state
from support.servers import File, sha256, sidecar_of

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

    def test_files_have_ordinary_permissions(self, spec, home):
        mask = os.umask(0)
        os.umask(mask)
        for path in (vesselseg.download(spec), home / "current.pth.json"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask

    def test_the_sidecar_records_the_origin(self, spec, content):
        path = vesselseg.download(spec)
        sidecar = sidecar_of(path)
        assert sidecar.pop("date").endswith("+00:00")
        assert sidecar == {
            "sha256": sha256(content),
            "size": len(content),
            "mtime_ns": path.stat().st_mtime_ns,
            "model": "narrow",
            "address": spec.sources[0].url,
            "obtained_from": spec.sources[0].url,
        }


class TestCached:
    def test_a_file_that_is_there_is_not_read_again(self, spec, monkeypatch):
        path = vesselseg.download(spec)
        monkeypatch.setattr("vesselseg.cache.sha256", None)
        assert vesselseg.download(spec) == vesselseg.find_cached(spec) == path

    def test_another_time_is_hashed_again_once(self, spec, server):
        path = vesselseg.download(spec)
        os.utime(path, ns=(5, 5))
        assert vesselseg.download(spec) == path
        assert sidecar_of(path)["mtime_ns"] == 5
        assert len(server.requests) == 1

    def test_a_damaged_file_is_obtained_anew(self, spec, content, caplog):
        path = vesselseg.download(spec)
        path.write_bytes(content[:-100])
        assert vesselseg.find_cached(spec) is None
        assert vesselseg.download(spec).read_bytes() == content
        assert "current.pth: This file cannot be used. Its SHA-256 is" in caplog.text

    @pytest.mark.parametrize("name", ["current.pth", "original.pth"])
    def test_a_file_put_there_by_hand_is_verified_and_recorded(
        self, name, spec, home, server, content, monkeypatch
    ):
        home.mkdir()
        (home / name).write_bytes(content)
        assert vesselseg.find_cached(spec) == vesselseg.download(spec) == home / name
        assert sidecar_of(home / name)["obtained_from"] == "by hand"
        assert not server.requests
        monkeypatch.setattr("vesselseg.weights.read", None)
        assert vesselseg.find_cached(spec) == home / name

    def test_rubbish_put_there_by_hand_is_not_used(self, spec, home, content, monkeypatch):
        home.mkdir()
        (home / "original.pth").write_bytes(b"rubbish")
        assert vesselseg.find_cached(spec) is None
        monkeypatch.setenv("VESSELSEG_OFFLINE", "1")
        with pytest.raises(DownloadError, match=r"'original\.pth' is damaged or not a PyTorch"):
            vesselseg.download(spec)
        monkeypatch.delenv("VESSELSEG_OFFLINE")
        assert vesselseg.download(spec).read_bytes() == content

    def test_weights_of_another_network_are_not_used(self, spec, home):
        home.mkdir()
        torch.save(
            {"state_dict": seeded_state(narrow_shapes("pspnet", 8), 1)}, home / "current.pth"
        )
        assert vesselseg.find_cached(spec) is None

    @pytest.mark.parametrize("text", ["{", "[]", '{"sha256": "abc"}', "[" * 100_000])
    def test_a_damaged_sidecar_is_ignored(self, text, spec, home, content, caplog):
        home.mkdir()
        (home / "current.pth").write_bytes(content)
        (home / "current.pth.json").write_text(text)
        assert vesselseg.find_cached(spec) == home / "current.pth"
        assert "is not the sidecar" in caplog.text
        assert sidecar_of(home / "current.pth")["sha256"] == sha256(content)

    def test_segmenting_uses_it(self, spec, photograph, server):
        for _ in range(2):
            assert vesselseg.load_model(spec, device="cpu")(photograph).mask.shape == (283, 283)
        assert len(server.requests) == 1


class TestDigests:
    def test_a_pinned_one_binds(self, spec, server, home, content, other):
        server.serve("/current.pth", File(other))
        sources = tuple(Source(s.url, sha256=sha256(content).upper()) for s in spec.sources)
        pinned = dataclasses.replace(spec, sources=sources)
        assert vesselseg.download(pinned) == home / "original.pth"
        assert not (home / "current.pth").exists()

    def test_one_pinned_later_replaces_the_file_and_says_so(
        self, spec, server, content, other, caplog
    ):
        server.serve("/current.pth", File(other), File(content))
        vesselseg.download(spec)
        pinned = (Source(spec.sources[0].url, sha256=sha256(content)),)
        path = vesselseg.download(dataclasses.replace(spec, sources=pinned))
        assert path.read_bytes() == content
        assert f"{sha256(other)}, but the model spec pins {sha256(content)}" in caplog.text

    def test_the_digits_of_a_name_only_warn(self, spec, caplog):
        doubtful = (Source(spec.sources[0].url, digits="0badc0de"),)
        vesselseg.download(dataclasses.replace(spec, sources=doubtful))
        (warning,) = [entry for entry in caplog.records if entry.levelno == logging.WARNING]
        assert "does not begin with the digits in its name, 0badc0de" in warning.message
        assert warning.name.startswith("vesselseg.")
        caplog.clear()
        vesselseg.download(dataclasses.replace(spec, sources=doubtful))
        assert not caplog.records  # told once

    def test_right_digits_say_nothing(self, spec, content, caplog):
        right = (Source(spec.sources[0].url, digits=sha256(content)[:8]),)
        vesselseg.download(dataclasses.replace(spec, sources=right))
        assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]

    @pytest.mark.parametrize("keep", [True, False], ids=["file and sidecar", "sidecar alone"])
    def test_a_changed_file_never_replaces_an_older_one(self, keep, spec, server, content, other):
        only = dataclasses.replace(spec, sources=spec.sources[:1])
        path = vesselseg.download(only)
        if not keep:
            path.unlink()
        server.serve("/current.pth", File(other))
        with pytest.raises(DownloadError, match=f"recorded {sha256(content)}"):
            vesselseg.download(only, force=True)
        assert not keep or path.read_bytes() == content
        cache.clear(only)  # whoever trusts the new one
        assert vesselseg.download(only).read_bytes() == other

    def test_force_obtains_the_same_file_again(self, spec, server):
        path = vesselseg.download(spec)
        before = path.stat().st_mtime_ns
        assert vesselseg.download(spec, force=True) == path
        assert path.stat().st_mtime_ns != before
        assert len(server.requests) == 2

    def test_force_lets_a_file_without_a_sidecar_bind(self, spec, home, other):
        home.mkdir()
        (home / "current.pth").write_bytes(other)
        only = dataclasses.replace(spec, sources=spec.sources[:1])
        with pytest.raises(DownloadError, match=f"recorded {sha256(other)}"):
            vesselseg.download(only, force=True)
        assert (home / "current.pth").read_bytes() == other

    def test_a_sidecar_from_another_machine_binds(self, spec, home, other):
        """Without a sidecar the first digest is trusted; with one, only that digest."""
        home.mkdir()
        (home / "current.pth.json").write_text(json.dumps({"sha256": sha256(other)}))
        assert vesselseg.download(spec) == home / "original.pth"

    def test_one_file_name_of_two_models_is_not_mixed_up(self, spec, server, other):
        vesselseg.download(spec)
        url = server.serve("/elsewhere/current.pth", File(other))
        mine = dataclasses.replace(spec, name="mine", sources=(Source(url),))
        assert vesselseg.find_cached(mine) is None
        with pytest.raises(DownloadError, match="for another model, 'narrow'"):
            vesselseg.download(mine)
        shared = dataclasses.replace(spec, name="other windows", stride=64)
        assert vesselseg.find_cached(shared) is not None  # the same file, used otherwise


class TestImport:
    def test_a_file_of_any_name_is_taken_in(self, spec, home, content, tmp_path):
        (tmp_path / "from usb.bin").write_bytes(content)
        path = vesselseg.import_file(tmp_path / "from usb.bin", spec)
        assert path == home / "current.pth"
        assert sidecar_of(path)["obtained_from"] == str(tmp_path / "from usb.bin")
        assert vesselseg.find_cached(spec) == path

    def test_its_name_or_digest_says_which_it_is(self, spec, home, content, tmp_path):
        for name in ("original.pth", "x"):
            (tmp_path / name).write_bytes(content)
        assert vesselseg.import_file(tmp_path / "original.pth", spec) == home / "original.pth"
        current, original = spec.sources
        known = (
            dataclasses.replace(current, digits="00000000"),
            dataclasses.replace(original, digits=sha256(content)[:8]),
        )
        spec = dataclasses.replace(spec, sources=known)
        assert vesselseg.import_file(tmp_path / "x", spec) == home / "original.pth"

    def test_a_wrong_file_is_rejected(self, spec, home, tmp_path, other):
        path = vesselseg.download(spec)
        (tmp_path / "page.pth").write_text("<html>")
        (tmp_path / "other.pth").write_bytes(other)
        with pytest.raises(CheckpointError, match=r"page\.pth' was not imported .* page of text"):
            vesselseg.import_file(tmp_path / "page.pth", spec)
        with pytest.raises(CheckpointError, match="recorded"):
            vesselseg.import_file(tmp_path / "other.pth", spec)
        assert sha256(path.read_bytes()) != sha256(other)
        assert not list(home.glob("*.part"))
        with pytest.raises(FileNotFoundError, match="no file"):
            vesselseg.import_file(tmp_path / "absent.pth", spec)
        with pytest.raises(OptionError, match="part of the package"):
            vesselseg.import_file(tmp_path / "other.pth", EMBEDDED)


class TestClear:
    def test_removes_only_what_is_ours(self, spec, home):
        vesselseg.download(spec)
        (home / "current.pth.0123456789ab.part").write_bytes(b"part")
        for name in ("mine.pth", "settings.json", "letter.txt"):
            (home / name).write_text("{}")
        names = ["current.pth", "current.pth.0123456789ab.part", "current.pth.json"]
        assert [path.name for path in cache.contents()] == names
        assert [path.name for path in cache.clear()] == names
        rest = {path.name for path in home.iterdir() if path.is_file()}
        assert rest == {"mine.pth", "settings.json", "letter.txt"}
        assert cache.clear() == []

    def test_of_one_model(self, spec, home, server, content):
        vesselseg.download(spec)
        url = server.serve("/second.pth", File(content))
        second = dataclasses.replace(spec, name="second", sources=(Source(url),))
        vesselseg.download(second)
        cache.clear(second)
        assert [path.name for path in home.glob("*.pth")] == ["current.pth"]

    def test_leaves_what_is_being_downloaded(self, spec, caplog):
        def clear(done, _):
            if done:
                assert cache.clear() == []

        assert vesselseg.download(spec, progress=clear).exists()
        assert "is being downloaded and is kept" in caplog.text
