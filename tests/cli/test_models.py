"""``vesselseg models``, ``download``, ``import`` and ``cache``."""

import dataclasses
import io
import json
import shutil
import subprocess
import sys

import pytest

import vesselseg
from vesselseg import Source
from vesselseg.cli import main, models
from vesselseg.registry import EMBEDDED, REGISTRY, list_models

NAME = "narrow"


@pytest.fixture(autouse=True)
def known(home, spec, monkeypatch):
    """The narrow model has a name."""
    assert home.parent.exists()
    known = {EMBEDDED.name: EMBEDDED, spec.name: spec}
    for module in ("cache", "registry"):
        monkeypatch.setattr(f"vesselseg.{module}.REGISTRY", known)


class TestModels:
    def test_lists_each_with_what_it_takes_to_choose(self, capsys, spec):
        vesselseg.download(spec)
        assert main(["models"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split("  ")[0] == "model"
        assert [line.split()[0] for line in lines[1:]] == [EMBEDDED.name, NAME]
        assert lines[2].split() == [NAME, "test", "-", "64", "/", "42", "1.9", "MB", "cached"]

    def test_what_is_not_here_has_its_published_size(self, capsys, monkeypatch):
        hrf = REGISTRY["unet_s5-d16_hrf"]
        monkeypatch.setattr("vesselseg.registry.REGISTRY", {hrf.name: hrf})
        assert main(["models"]) == 0
        line = capsys.readouterr().out.splitlines()[1]
        assert line.split() == f"{hrf.name} hrf 79.45 256 / 170 ~116 MB not cached".split()

    def test_json(self, capsys, spec):
        for cached in (False, True):
            assert main(["models", "--json"]) == 0
            values = json.loads(capsys.readouterr().out)[1]
            assert values["state"] == ("cached" if cached else "not cached")
            path = vesselseg.download(spec)
        assert values["path"] == str(path)
        assert values["size"] == path.stat().st_size
        assert len(values["sha256"]) == 64
        assert values["sources"][0]["url"] == spec.sources[0].url
        assert (values["crop"], values["dataset"], values["dice"]) == (64, "test", None)

    def test_is_quick(self):
        code = (
            "import sys; from vesselseg.cli import main; main(['models'])\n"
            "assert not {'torch', 'requests', 'tqdm', 'numpy'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


class TestDownload:
    def test_writes_paths_and_digests(self, capsys, home):
        assert main(["download", NAME]) == 0
        line = capsys.readouterr().out
        assert line.startswith(f"{home / 'current.pth'}  SHA-256 ")
        assert main(["download", NAME]) == 0
        assert capsys.readouterr().out == line

    def test_all(self, capsys, monkeypatch, tmp_path):
        embedded = vesselseg.find_cached(EMBEDDED)
        elsewhere = str(tmp_path / "cache" / "__init__.py")
        monkeypatch.setattr("vesselseg.cache.__file__", elsewhere)
        assert main(["download", "--all"]) == 1  # the embedded one is not there
        said = capsys.readouterr()
        assert "installation is damaged" in said.err
        assert "current.pth" in said.out  # but the others are
        (tmp_path / "embedded").mkdir()
        shutil.copy(embedded, tmp_path / "embedded")
        assert main(["download", "--all"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == len(list_models())

    def test_force(self, server):
        for _ in range(2):
            assert main(["download", NAME, "--force"]) == 0
        assert len(server.requests) == 2

    @pytest.mark.parametrize("option", ["--no-progress", "--quiet", "-v"])
    def test_bars_and_the_log_are_as_for_every_command(self, option, monkeypatch, home):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        monkeypatch.setattr("sys.stderr", Terminal())
        assert main(["download", NAME, option]) == 0
        said = sys.stderr.getvalue()
        assert ("%|" in said) == (option == "-v")
        assert (f"{home / 'current.pth'} was obtained from" in said) == (option == "-v")

    def test_failure(self, capsys, monkeypatch):
        monkeypatch.setenv("VESSELSEG_OFFLINE", "1")
        assert main(["download", NAME]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"vesselseg: The weights of {NAME!r} could not be downloaded")
        assert f"vesselseg import FILE --name {NAME}" in said
        assert "Traceback" not in said

    @pytest.mark.parametrize("words", [[], [NAME, "--all"]])
    def test_wants_names_or_all(self, words):
        with pytest.raises(SystemExit) as stopped:
            main(["download", *words])
        assert stopped.value.code == 2

    def test_nothing_is_downloaded_where_a_name_is_wrong(self, capsys, server):
        assert main(["download", NAME, "narow"]) != 0
        assert "Did you mean 'narrow'?" in capsys.readouterr().err
        assert not server.requests


class TestImport:
    def test_takes_a_checked_file_in(self, capsys, home, tmp_path, content):
        (tmp_path / "usb.pth").write_bytes(content)
        assert main(["import", str(tmp_path / "usb.pth"), "--name", NAME]) == 0
        assert capsys.readouterr().out.startswith(f"{home / 'current.pth'}  SHA-256 ")

    def test_a_digest_unlike_the_published_digits_needs_force(
        self, capsys, spec, tmp_path, content, monkeypatch
    ):
        source = Source("https://example.org/narrow.pth", digits="0badc0de")
        doubtful = dataclasses.replace(spec, sources=(source,))
        monkeypatch.setattr("vesselseg.registry.REGISTRY", {NAME: doubtful})
        (tmp_path / "usb.pth").write_bytes(content)
        command = ["import", str(tmp_path / "usb.pth"), "--name", NAME]
        assert main(command) == 2
        assert "should begin with 0badc0de" in capsys.readouterr().err
        assert main([*command, "--force"]) == 0
        assert main(["models"]) == 0
        assert "cached, unverified" in capsys.readouterr().out

    def test_refuses_another_one(self, capsys, tmp_path):
        (tmp_path / "usb.pth").write_text("rubbish")
        assert main(["import", str(tmp_path / "usb.pth"), "--name", NAME]) == 2
        assert "was not imported" in capsys.readouterr().err
        assert main(["import", str(tmp_path / "absent.pth"), "--name", NAME]) == 2
        assert "There is no file" in capsys.readouterr().err


class TestCache:
    def test_shows_where_and_how_large(self, capsys, home, spec):
        assert main(["cache"]) == 0
        assert capsys.readouterr().out == f"{home}: 0.0 MB\n"
        vesselseg.download(spec)
        (home / "current.pth.0123456789ab.part").write_bytes(bytes(1 << 18))
        assert main(["cache"]) == 0
        assert capsys.readouterr().out.splitlines() == [
            f"{home}: 2.1 MB",
            "  current.pth: 1.9 MB",
            "  current.pth.0123456789ab.part: 0.3 MB, part of a download that can be resumed",
        ]

    def test_a_file_that_is_not_the_models_is_called_rejected(self, capsys, home, spec):
        home.mkdir(parents=True)
        (home / "current.pth").write_bytes(b"rubbish")
        for command in ("models", "cache"):
            assert main([command]) == 0
            line = capsys.readouterr().out.splitlines()[-1]
            assert line.endswith("rejected")
            assert NAME in line or "current.pth" in line
        vesselseg.download(spec, progress=False)
        assert main(["cache"]) == 0
        assert "rejected" not in capsys.readouterr().out

    def test_doctor_counts_the_same_files(self, capsys, home, spec):
        vesselseg.download(spec)
        (home / "current.pth.0123456789ab.part").write_bytes(bytes(1 << 20))
        (home / "notes.txt").write_text("not ours")
        assert main(["cache"]) == 0
        assert capsys.readouterr().out.startswith(f"{home}: 2.9 MB\n")
        found = models.describe_cache()
        assert found == {"folder": str(home), "files": 2, "megabytes": 2.9}

    @pytest.mark.parametrize("names", [[], [NAME]])
    def test_clear_removes_files(self, names, capsys, home, spec):
        vesselseg.download(spec)
        assert main(["cache", "--clear", *names]) == 0
        assert capsys.readouterr().out == f"2 removed from {home}\n"
        assert vesselseg.find_cached(spec) is None

    def test_clear_suggests_a_name(self, capsys, spec):
        vesselseg.download(spec)
        assert main(["cache", "--clear", "narow"]) != 0
        assert "Did you mean" in capsys.readouterr().err
        assert vesselseg.find_cached(spec)
