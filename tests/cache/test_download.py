"""The cache: what is accepted, what is kept, and which digests bind."""

import dataclasses
import json
import logging
import os
import re
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import narrow_shapes, seeded_state
from support.servers import File, sha256, sidecar_of

import vesselseg
from vesselseg import CheckpointError, DownloadError, OptionError, Source, cache
from vesselseg.cli import main
from vesselseg.registry import EMBEDDED

pytestmark = pytest.mark.usefixtures("home")


def only_current(spec, **known):
    """The model spec with its current address alone, and what is known of its digest."""
    return dataclasses.replace(spec, sources=(dataclasses.replace(spec.sources[0], **known),))


class TestFolder:
    def test_the_cache_is_the_users_cache_folder_unless_it_is_set(self, monkeypatch, tmp_path):
        monkeypatch.delenv("VESSELSEG_HOME", raising=False)
        assert cache.cache_folder().name in ("vesselseg", "Cache")
        monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path / "here"))
        assert cache.cache_folder() == tmp_path / "here"
        monkeypatch.setenv("VESSELSEG_HOME", "~/there")
        assert cache.cache_folder() == Path.home() / "there"

    @pytest.mark.slow
    @pytest.mark.parametrize("home", ["", "~", "~/weights"])
    @pytest.mark.usefixtures("small_window")
    def test_without_a_home_folder_nothing_needs_one_but_a_download(self, home, monkeypatch):
        """As in containers, whose user often has neither a home nor a name."""
        for name in [name for name in os.environ if name.startswith(("XDG_", "VESSELSEG_"))]:
            monkeypatch.delenv(name)
        monkeypatch.delenv("HOME", raising=False)
        monkeypatch.setattr("os.path.expanduser", lambda path: path)
        monkeypatch.setenv("VESSELSEG_HOME", home)
        monkeypatch.setenv("VESSELSEG_MIRROR", "~/mirror")
        with pytest.raises(DownloadError, match=r"no home folder\. Set .* VESSELSEG_HOME"):
            vesselseg.download("unet_s5-d16_drive")
        assert vesselseg.find_cached("unet_s5-d16_drive") is None
        assert vesselseg.load_model(device="cpu").spec == EMBEDDED
        for words, code in ((["models"], 0), (["cache"], 2), (["doctor"], 0)):
            assert main(words) == code

    def test_files_have_ordinary_permissions_and_a_sidecar_with_the_origin(
        self, spec, home, content
    ):
        path = vesselseg.download(spec)
        mask = os.umask(0)
        os.umask(mask)
        for file in (path, home / "current.pth.json"):
            assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask
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
    def test_a_cached_file_is_not_hashed_again(self, spec, monkeypatch):
        path = vesselseg.download(spec)
        monkeypatch.setattr("vesselseg.cache.sha256", None)
        assert vesselseg.download(spec) == vesselseg.find_cached(spec) == path

    def test_a_file_with_a_new_modification_time_is_hashed_once(self, spec, server):
        path = vesselseg.download(spec)
        os.utime(path, ns=(5, 5))
        assert vesselseg.download(spec) == path
        assert sidecar_of(path)["mtime_ns"] == 5
        assert len(server.requests) == 1

    def test_a_damaged_file_is_downloaded_again(self, spec, content, caplog):
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

    def test_a_file_put_there_by_hand_with_other_digits_is_warned_of_once(
        self, spec, home, content, caplog
    ):
        home.mkdir()
        (home / "current.pth").write_bytes(content)
        for _ in range(2):
            vesselseg.download(only_current(spec, digits="0badc0de"))
        (warning,) = caplog.messages
        assert "(by hand)" in warning
        assert "does not begin with the digits in its name, 0badc0de" in warning

    def test_a_wrong_file_put_there_by_hand_is_not_used(self, spec, home, content, monkeypatch):
        home.mkdir()
        other_network = {"state_dict": seeded_state(narrow_shapes("pspnet", 8), 1)}
        torch.save(other_network, home / "current.pth")
        (home / "original.pth").write_bytes(b"rubbish")
        assert vesselseg.find_cached(spec) is None
        with monkeypatch.context() as offline:
            offline.setenv("VESSELSEG_OFFLINE", "1")
            with pytest.raises(DownloadError, match=r"'original\.pth' is damaged or not a PyTorch"):
                vesselseg.download(spec)
        assert vesselseg.download(spec).read_bytes() == content

    @pytest.mark.parametrize("text", ["{", "[]", '{"sha256": "abc"}', "[" * 100_000])
    def test_a_damaged_sidecar_is_ignored(self, text, spec, home, content, caplog):
        home.mkdir()
        (home / "current.pth").write_bytes(content)
        (home / "current.pth.json").write_text(text)
        assert vesselseg.find_cached(spec) == home / "current.pth"
        assert "is not the sidecar" in caplog.text
        assert sidecar_of(home / "current.pth")["sha256"] == sha256(content)

    def test_segmenting_uses_the_cached_file(self, spec, photograph, server):
        for _ in range(2):
            assert vesselseg.load_model(spec, device="cpu")(photograph).mask.shape == (177, 177)
        assert len(server.requests) == 1


class TestDigests:
    def test_a_pinned_digest_rejects_other_files(self, spec, server, home, content, other):
        server.serve("/current.pth", File(other))
        sources = tuple(Source(s.url, sha256=sha256(content).upper()) for s in spec.sources)
        pinned = dataclasses.replace(spec, sources=sources)
        assert vesselseg.download(pinned) == home / "original.pth"
        assert not (home / "current.pth").exists()

    def test_a_digest_pinned_later_replaces_the_file_with_a_warning(
        self, spec, server, content, other, caplog
    ):
        server.serve("/current.pth", File(other), File(content))
        vesselseg.download(spec)
        path = vesselseg.download(only_current(spec, sha256=sha256(content)))
        assert path.read_bytes() == content
        assert f"{sha256(other)}, but the model spec pins {sha256(content)}" in caplog.text

    def test_the_digits_of_a_name_only_warn_once(self, spec, content, caplog):
        vesselseg.download(only_current(spec, digits=sha256(content)[:8]))
        assert not caplog.records
        cache.clear(spec)
        doubtful = only_current(spec, digits="0badc0de")
        for _ in range(2):
            vesselseg.download(doubtful)
        (warning,) = caplog.records
        assert (warning.levelno, warning.name) == (logging.WARNING, "vesselseg.cache")
        assert "does not begin with the digits in its name, 0badc0de" in warning.message

    @pytest.mark.parametrize("keep", [True, False], ids=["file and sidecar", "sidecar alone"])
    def test_a_changed_file_never_replaces_an_older_one(self, keep, spec, server, content, other):
        only = only_current(spec)
        path = vesselseg.download(only)
        if not keep:
            path.unlink()
        server.serve("/current.pth", File(other))
        with pytest.raises(DownloadError, match=f"recorded {sha256(content)}"):
            vesselseg.download(only, force=True)
        assert not keep or path.read_bytes() == content
        cache.clear(only)  # whoever trusts the new one
        assert vesselseg.download(only).read_bytes() == other

    def test_force_downloads_the_same_file_again(self, spec, server):
        path = vesselseg.download(spec)
        before = path.stat().st_mtime_ns
        assert vesselseg.download(spec, force=True) == path
        assert path.stat().st_mtime_ns != before
        assert len(server.requests) == 2

    def test_force_records_the_digest_of_a_file_without_a_sidecar(self, spec, home, other):
        home.mkdir()
        (home / "current.pth").write_bytes(other)
        with pytest.raises(DownloadError, match=f"recorded {sha256(other)}"):
            vesselseg.download(only_current(spec), force=True)
        assert (home / "current.pth").read_bytes() == other

    def test_a_sidecar_from_another_machine_rejects_other_files(self, spec, home, other):
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
    def test_an_imported_file_is_recognised_by_its_name_or_digest(
        self, spec, home, content, tmp_path
    ):
        for name in ("original.pth", "from usb.bin"):
            (tmp_path / name).write_bytes(content)
        path = vesselseg.import_file(tmp_path / "from usb.bin", spec)
        assert path == vesselseg.find_cached(spec) == home / "current.pth"
        assert sidecar_of(path)["obtained_from"] == str(tmp_path / "from usb.bin")
        assert vesselseg.import_file(tmp_path / "original.pth", spec) == home / "original.pth"
        current, original = spec.sources
        known = (
            dataclasses.replace(current, digits="00000000"),
            dataclasses.replace(original, digits=sha256(content)[:8]),
        )
        cache.clear(spec)
        spec = dataclasses.replace(spec, sources=known)
        assert vesselseg.import_file(tmp_path / "from usb.bin", spec) == home / "original.pth"

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
        with pytest.raises(FileNotFoundError, match="no file"):  # no file system has such a name
            vesselseg.import_file("x" * 300, spec)
        with pytest.raises(OptionError, match="part of the package"):
            vesselseg.import_file(tmp_path / "other.pth", EMBEDDED)

    @pytest.mark.slow
    def test_a_digest_unlike_the_published_digits_needs_force(self, spec, other, tmp_path):
        sources = tuple(dataclasses.replace(source, digits="0badc0de") for source in spec.sources)
        spec = dataclasses.replace(spec, sources=sources)
        file = tmp_path / "chase.pth"
        file.write_bytes(other)
        with pytest.raises(CheckpointError, match=r"should begin with 0badc0de.*\(force\)"):
            vesselseg.import_file(file, spec)
        assert vesselseg.find_cached(spec) is None
        path = vesselseg.import_file(file, spec, force=True)
        assert vesselseg.find_cached(spec) == path
        black = np.zeros((20, 20, 3), np.uint8)
        assert vesselseg.segment(black, model=spec).provenance["unverified"]
        vesselseg.load_model(spec).save(tmp_path / "saved.pth")
        saved = vesselseg.load_model(tmp_path / "saved.pth")
        assert saved(black).provenance["unverified"]
        saved.save(tmp_path / "again.pth")
        assert vesselseg.load_model(tmp_path / "again.pth").spec.unverified

    def test_a_digest_that_is_unlike_is_given_with_the_model_and_its_digits(
        self, spec, other, tmp_path
    ):
        sources = tuple(dataclasses.replace(source, digits="0badc0de") for source in spec.sources)
        (tmp_path / "other.pth").write_bytes(other)
        said = f"than that of 'narrow'. Its SHA-256 is {sha256(other)}, and should begin with 0bad"
        with pytest.raises(CheckpointError, match=re.escape(said)):
            vesselseg.import_file(
                tmp_path / "other.pth", dataclasses.replace(spec, sources=sources)
            )

    def test_a_digest_unlike_the_pinned_one_is_rejected_for_good(
        self, spec, content, other, tmp_path
    ):
        (source, _), pinned = spec.sources, sha256(content)
        spec = dataclasses.replace(spec, sources=(dataclasses.replace(source, sha256=pinned),))
        (tmp_path / "other.pth").write_bytes(other)
        for force in (False, True):
            with pytest.raises(CheckpointError, match=f"{sha256(other)}.* pins {pinned}") as caught:
                vesselseg.import_file(tmp_path / "other.pth", spec, force=force)
            assert "--force" not in str(caught.value)
        assert vesselseg.find_cached(spec) is None


class TestClear:
    def test_clear_removes_only_files_of_vesselseg(self, spec, home):
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

    def test_clear_of_one_model_keeps_the_others(self, spec, home, server, content):
        vesselseg.download(spec)
        url = server.serve("/second.pth", File(content))
        second = dataclasses.replace(spec, name="second", sources=(Source(url),))
        vesselseg.download(second)
        cache.clear(second)
        assert [path.name for path in home.glob("*.pth")] == ["current.pth"]

    def test_clear_keeps_files_that_are_being_downloaded(self, spec, caplog):
        def clear(done, _):
            if done:
                assert cache.clear() == []

        assert vesselseg.download(spec, progress=clear).exists()
        assert "is being downloaded and is kept" in caplog.text
