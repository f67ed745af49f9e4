"""Mirrors, working offline, progress, and what is told when the weights cannot be had."""

import dataclasses
import io
import json
import os
import shutil
import sys

import pytest
from support.servers import File, Status, sha256, sidecar_of

import vesselseg
from vesselseg import DownloadError, ModelSpec, OptionError, Source, UnknownModelError, cache
from vesselseg.errors import redact
from vesselseg.registry import EMBEDDED, REGISTRY

pytestmark = pytest.mark.usefixtures("home")


class TestMirrors:
    @pytest.fixture
    def shelf(self, tmp_path, content, monkeypatch):
        """A folder with the file under its original name, first of the mirrors."""
        (tmp_path / "shelf").mkdir()
        (tmp_path / "shelf" / "original.pth").write_bytes(content)
        monkeypatch.setenv("VESSELSEG_MIRROR", f"{tmp_path / 'shelf'}, ,")
        return tmp_path / "shelf"

    @pytest.mark.parametrize("offline", ["", "1"])
    def test_a_mirror_folder_is_tried_first(self, offline, shelf, spec, home, server, monkeypatch):
        monkeypatch.setenv("VESSELSEG_OFFLINE", offline)
        path = vesselseg.download(spec)
        assert path == home / "original.pth"
        assert not server.requests
        sidecar = sidecar_of(path)
        assert sidecar["obtained_from"] == str(shelf / "original.pth")
        assert sidecar["address"] == spec.sources[1].url
        assert (shelf / "original.pth").exists()

    @pytest.mark.parametrize("end", ["/mirror", "/mirror/"])
    def test_a_mirror_address_is_tried_first(self, end, spec, home, server, content, monkeypatch):
        server.serve("/mirror/original.pth", File(content))
        monkeypatch.setenv("VESSELSEG_MIRROR", f"/nowhere, {server.url}{end}")
        assert vesselseg.download(spec) == home / "original.pth"
        paths = ["/mirror/current.pth", "/mirror/original.pth", "/mirror/original.pth.json"]
        assert [request.path for request in server.requests] == paths

    def test_a_password_in_an_address_is_not_reported(self, spec, server, content, monkeypatch):
        server.serve("/mirror/original.pth", File(content))
        mirror = f"{server.url.replace('//', '//somebody:secret@')}/mirror"
        monkeypatch.setenv("VESSELSEG_MIRROR", mirror)
        path = vesselseg.download(spec)
        assert server.asked("/mirror/original.pth")[0].headers["Authorization"].startswith("Basic")
        assert sidecar_of(path)["obtained_from"] == redact(f"{mirror}/original.pth")
        path.unlink()
        for place in ("/mirror/original.pth", "/original.pth", "/current.pth"):
            server.serve(place, File(b"<html>"))
        with pytest.raises(DownloadError) as caught:
            vesselseg.download(spec)
        assert "secret" not in str(caught.value)

    def test_a_cache_can_serve_as_a_mirror_and_its_sidecars_are_binding(
        self, spec, home, server, other, monkeypatch, tmp_path
    ):
        """A second machine that gets another digest under the same name is told so."""
        vesselseg.download(spec)
        shutil.copytree(home, tmp_path / "first machine")
        shutil.rmtree(home)
        (tmp_path / "first machine" / "current.pth").unlink()
        monkeypatch.setenv("VESSELSEG_MIRROR", str(tmp_path / "first machine"))
        server.serve("/current.pth", File(other))
        one = dataclasses.replace(spec, sources=spec.sources[:1])
        with pytest.raises(DownloadError, match=r"first machine.current\.pth\.json recorded"):
            vesselseg.download(one)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
    def test_a_pipe_in_a_mirror_folder_is_not_waited_for(self, tmp_path, spec, home, monkeypatch):
        os.mkfifo(tmp_path / "current.pth")
        monkeypatch.setenv("VESSELSEG_MIRROR", str(tmp_path))
        assert vesselseg.download(spec) == home / "current.pth"

    def test_the_sidecar_on_a_mirror_address_is_binding(
        self, spec, server, home, content, other, monkeypatch
    ):
        server.serve("/mirror/current.pth", File(other))
        sidecar = json.dumps({"sha256": sha256(content)}).encode()
        server.serve("/mirror/current.pth.json", File(sidecar))
        monkeypatch.setenv("VESSELSEG_MIRROR", f"{server.url}/mirror")
        one = dataclasses.replace(spec, sources=spec.sources[:1])
        assert vesselseg.download(one).read_bytes() == content
        assert sidecar_of(home / "current.pth")["obtained_from"] == one.sources[0].url


class TestAddressesWithAQuery:
    """The request has the query; file names, sidecars and messages do not."""

    @pytest.fixture
    def signed(self, spec, server, content):
        address = server.serve("/net.pth?token=secret/a.pth&download=1", File(content))
        return dataclasses.replace(spec, sources=(Source(address + "#part"),))

    def test_a_file_is_downloaded_to_the_name_in_the_path(self, signed, home, server):
        path = vesselseg.download(signed)
        assert path == home / "net.pth"
        assert sorted(file.name for file in home.iterdir() if file.is_file()) == [
            "net.pth",
            "net.pth.json",
        ]
        sidecar = sidecar_of(path)
        assert sidecar["address"] == sidecar["obtained_from"] == f"{server.url}/net.pth"
        assert vesselseg.find_cached(signed) == vesselseg.download(signed, force=True) == path
        assert cache.clear(signed) == [path, home / "net.pth.json"]

    def test_a_mirror_has_it_under_that_name(self, signed, home, server, content, monkeypatch):
        server.serve("/mirror/net.pth", File(content))
        monkeypatch.setenv("VESSELSEG_MIRROR", f"{server.url}/mirror")
        assert vesselseg.download(signed) == home / "net.pth"
        assert {request.path for request in server.requests} == {
            "/mirror/net.pth",
            "/mirror/net.pth.json",
        }

    def test_an_interrupted_download_is_resumed(self, signed, server, content):
        path = "/net.pth?token=secret/a.pth&download=1"
        server.serve(path, File(content, cut=1 << 17), File(content))
        assert vesselseg.download(signed).read_bytes() == content
        assert server.asked(path)[1].headers["Range"] == f"bytes={1 << 17}-"

    def test_the_query_is_not_reported(self, signed, server, caplog):
        caplog.set_level("DEBUG", "vesselseg")
        server.serve("/net.pth?token=secret/a.pth&download=1", Status(503))
        odd = Source("nonsense://host/net.pth?token=secret")
        for sources in (signed.sources, (odd,)):
            with pytest.raises(DownloadError, match=r"/net\.pth\n") as caught:
                vesselseg.download(dataclasses.replace(signed, sources=sources))
            assert "secret" not in str(caught.value) + caplog.text


class TestErrors:
    def test_every_address_is_reported_with_its_answer_and_what_to_do(self, spec, server, home):
        current = dataclasses.replace(spec.sources[0], digits="5daf6d3b")
        original = dataclasses.replace(spec.sources[1], sha256="ab" * 32)
        server.serve("/current.pth", Status(404))
        server.serve("/original.pth", File(b"<html>"))
        with pytest.raises(DownloadError) as caught:
            vesselseg.download(dataclasses.replace(spec, sources=(current, original)))
        lines = str(caught.value).splitlines()
        assert lines == [
            "The weights of 'narrow' could not be downloaded.",
            "Sources and their answers:",
            f"  {current.url}",
            "    HTTP 404 Not Found",
            f"  {original.url}",
            "    It is a page of text (HTML or XML) instead of the weights.",
            "To install them by hand, put the file at one of",
            f"  {home / 'current.pth'}",
            "    SHA-256 begins with 5daf6d3b",
            f"  {home / 'original.pth'}",
            f"    SHA-256 {'ab' * 32}",
            "or let vesselseg verify and copy it: vesselseg.import_file(FILE, SPEC)",
            "Environment variables:",
            "  VESSELSEG_MIRROR (not set): folders or base addresses that hold the file",
            f"  VESSELSEG_HOME (now {str(home)!r}): the cache folder",
            "  VESSELSEG_OFFLINE (not set): 1 for no network",
            "  HTTPS_PROXY; SSL_CERT_FILE, REQUESTS_CA_BUNDLE: proxy; trusted certificates",
        ]
        assert isinstance(caught.value, OSError)

    def test_offline_the_error_names_the_missing_file(self, home, monkeypatch):
        monkeypatch.setenv("VESSELSEG_OFFLINE", "1")
        monkeypatch.setattr("requests.Session.get", None)
        with pytest.raises(DownloadError) as caught:
            vesselseg.download("unet_s5-d16_hrf")
        text = str(caught.value)
        assert "'unet_s5-d16_hrf' could not be downloaded (VESSELSEG_OFFLINE is set)" in text
        assert "vesselseg import FILE --name unet_s5-d16_hrf" in text
        for source in REGISTRY["unet_s5-d16_hrf"].sources:
            assert f"{source.url}\n    Not asked, since VESSELSEG_OFFLINE is set." in text
            assert str(home / source.filename) in text

    @pytest.mark.parametrize("value", ["", "0", "false", "no"])
    def test_other_values_of_the_variable_do_not_mean_offline(
        self, value, spec, server, monkeypatch
    ):
        monkeypatch.setenv("VESSELSEG_OFFLINE", value)
        vesselseg.download(spec)
        assert server.requests

    def test_a_spec_without_an_address_is_rejected(self, home, content, tmp_path, monkeypatch):
        mine = ModelSpec(name="mine", dataset="my clinic", crop=64, stride=42, width=8)
        with pytest.raises(DownloadError, match="No address is known"):
            vesselseg.download(mine)
        (tmp_path / "mine.pth").write_bytes(content)
        monkeypatch.setenv("VESSELSEG_MIRROR", str(tmp_path))
        assert vesselseg.download(mine) == home / "mine.pth"

    @pytest.mark.parametrize("name", ["", "..", "?raw=a.pth", ".hidden", "a\\b"])
    def test_an_address_without_a_file_name_is_rejected(self, name, spec):
        odd = dataclasses.replace(spec, sources=(Source(f"https://example.org/{name}"),))
        with pytest.raises(OptionError, match="does not end in a file name"):
            vesselseg.download(odd)

    def test_unknown_models_are_rejected(self):
        with pytest.raises(UnknownModelError, match="Did you mean"):
            vesselseg.download("unet_s5-d16_hrff")
        with pytest.raises(OptionError, match="type int"):
            vesselseg.download(3)


class TestPackaged:
    def test_the_embedded_model_comes_from_the_package(self, monkeypatch, tmp_path):
        elsewhere = str(tmp_path / "cache" / "__init__.py")
        monkeypatch.setattr("vesselseg.cache.__file__", elsewhere)
        with pytest.raises(DownloadError, match="installation is damaged"):
            vesselseg.download(EMBEDDED)
        assert vesselseg.find_cached(EMBEDDED) is None
        (tmp_path / "embedded").mkdir()
        path = tmp_path / "embedded" / EMBEDDED.filename
        path.write_bytes(b"weights")
        pinned = Source(EMBEDDED.sources[0].url, sha256=sha256(b"weights").upper())
        spec = dataclasses.replace(EMBEDDED, sources=(pinned,))
        assert vesselseg.download(spec) == vesselseg.find_cached(spec) == path

    def test_a_file_with_another_digest_than_the_pinned_one_is_rejected(
        self, monkeypatch, tmp_path, caplog
    ):
        monkeypatch.setattr("vesselseg.cache.__file__", str(tmp_path / "cache" / "__init__.py"))
        (tmp_path / "embedded").mkdir()
        (tmp_path / "embedded" / EMBEDDED.filename).write_bytes(b"other weights")
        for use in (vesselseg.download, vesselseg.load_model):
            with pytest.raises(DownloadError, match=r"spec pins a79b.* installation is damaged"):
                use(EMBEDDED)
        assert vesselseg.find_cached(EMBEDDED) is None
        assert "installation is damaged" in caplog.text

    def test_the_embedded_file_has_the_pinned_digest(self):
        path = vesselseg.find_cached(EMBEDDED)
        if path is None:
            pytest.skip("the embedded weights are not in this working copy")
        assert sha256(path.read_bytes()) == EMBEDDED.sources[0].sha256


class TestProgress:
    def test_a_progress_function_is_called_for_all_bytes(self, spec, content):
        calls = []
        vesselseg.download(spec, progress=lambda *call: calls.append(call))
        assert calls[0] == (0, len(content))
        assert calls[-1] == (len(content), len(content))
        assert calls == sorted(calls)

    def test_a_progress_function_may_stop_a_download_and_a_later_call_resumes(
        self, spec, server, content
    ):
        def stop(done, _):
            if done >= 1 << 17:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            vesselseg.download(spec, progress=stop)
        calls = []
        vesselseg.download(spec, progress=lambda *call: calls.append(call))
        assert calls[0] == (1 << 17, len(content))
        assert server.requests[1].headers["Range"] == f"bytes={1 << 17}-"

    def test_no_progress_bar_is_printed_without_a_terminal(self, spec, capfd):
        vesselseg.download(spec)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("progress", [True, False])
    def test_a_progress_bar_is_printed_on_a_terminal(
        self, progress, spec, server, content, monkeypatch
    ):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        # Starts over once, at a server that ignores ranges.
        whole = File(content, ranges=False)
        server.serve("/current.pth", File(content, cut=1 << 17), whole)
        monkeypatch.setattr(sys, "stderr", Terminal())
        vesselseg.download(spec, progress=progress)
        drawn = sys.stderr.getvalue()
        assert ("narrow" in drawn and "B/s" in drawn) is progress
