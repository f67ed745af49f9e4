"""Terminals that cannot take a character, and pipes that close, end nothing."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import drawn
from support.models import tiny_weights

from vesselseg.cli import main
from vesselseg.cli.streams import lasting_streams

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = handlers


class Closed(io.StringIO):
    """A pipe whose reader has gone."""

    error = BrokenPipeError(32, "Broken pipe")

    def write(self, _: str) -> int:
        raise self.error

    def flush(self) -> None:
        raise self.error


class Full(Closed):
    """A file on a full disk."""

    error = OSError(28, "No space left on device")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "latin-1"])
def test_every_character_is_printed_or_escaped(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with lasting_streams():
        print("a ± → 眼 \udcff \U0001f441 end")
    assert sys.stdout is stream
    stream.flush()
    printed = stream.buffer.getvalue().decode(encoding)
    assert printed.startswith("a ")
    assert printed.endswith(" end\n")
    assert "\\udcff" in printed


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_commands_end_as_usual_when_nobody_reads(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, name, Closed())
    assert main(["models"]) == 0


def test_a_full_disk_is_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full())
    assert main(["models"]) == 2
    assert "Standard output cannot be written: No space left" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("stream", [Closed(), io.TextIOWrapper(io.BytesIO(), encoding="ascii")])
def test_evaluations_are_written_whatever_the_terminal(
    stream: io.TextIOBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a", "größe ±", os.fsdecode(b"gr\xf6\xdfe"), "two\nlines", "\x1b[2Jx", "-x", "<b>")
    drawn.pairs(Path("set"), names=names)
    tiny_weights(Path("tiny.pth"))
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    words = "evaluate set --dataset pairs --model tiny.pth --table e.csv --json e.json --report r"
    assert main(words.split()) == 0
    assert os.fsencode("gr\udcf6\udcdfe") in Path("e.csv").read_bytes()
    assert r"gr\udcf6\udcdfe" in Path("e.json").read_text(encoding="utf-8")
    page = Path("r/index.html").read_text(encoding="utf-8")
    assert "größe ±" in page
    assert "&lt;b&gt;" in page


def test_control_characters_in_names_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("in").mkdir()
    Path("in/a\x1b[2J\nx.png").write_bytes(b"no image")
    tiny_weights(Path("tiny.pth"))
    assert main(["in", "-o", "out", "--model", "tiny.pth"]) == 1
    said = capsys.readouterr().err
    assert "\x1b" not in said
    assert r"a\x1b[2J\nx.png" in said


@pytest.mark.parametrize(
    "words",
    [["", "-o", "x"], ["segment", "", "-o", "x"], ["measure", ""],
     ["evaluate", "", "--dataset", "pairs"], ["train", "", "l"]],
)  # fmt: skip
def test_an_empty_argument_is_not_the_working_directory(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert "an argument is empty text" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="pipes as POSIX has them")
@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_process_ends_as_usual_behind_head(closed: str) -> None:
    drawn.photographs(Path("in"), ["a.png", "b.png"])
    tiny_weights(Path("tiny.pth"))
    commands = [["models"], ["--help"]]
    if closed == "stderr":  # to standard output, segmenting into a folder writes nothing
        commands.append(["in", "-o", "out", "--model", "tiny.pth"])
    reader, writer = os.pipe()
    os.close(reader)
    for words in commands:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, closed: writer}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "vesselseg", *words],
            **streams, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0
        assert not done.stderr or "Traceback" not in done.stderr
        assert not done.stderr or "Exception ignored" not in done.stderr
    os.close(writer)
    if closed == "stderr":
        assert sorted(path.name for path in Path("out").iterdir()) == ["a.png", "b.png"]
