"""The command as a whole: help, version, the short form, exit codes."""

from __future__ import annotations

import argparse
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vesselseg
from vesselseg import OptionError, OutputError, UnknownModelError
from vesselseg.cli import build_parser, main


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder, and logging as it was."""
    monkeypatch.chdir(tmp_path)
    handlers = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = handlers


def commands() -> dict[str, argparse.ArgumentParser]:
    return build_parser()[1]


@pytest.mark.parametrize("words", ["--help", "--version", "segment --help", "doctor --help"])
def test_help_and_version_load_nothing_heavy(words: str) -> None:
    code = (
        "import sys, vesselseg.cli\n"
        "try: vesselseg.cli.main(sys.argv[1:])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'numpy', 'PIL', 'requests', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    command = [sys.executable, "-c", code, *words.split()]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as stopped:
            main([option])
        assert stopped.value.code == 0
    version, _, said = capsys.readouterr().out.partition("\n")
    assert version == f"vesselseg {vesselseg.__version__}"
    assert "`vesselseg IMAGE... -o OUT` is short for" in said
    for command in commands():
        assert command in said


@pytest.mark.parametrize("command", ["segment", "doctor"])
def test_every_option_is_documented_with_its_default(command: str) -> None:
    for action in commands()[command]._actions:
        assert action.help
        if action.option_strings and not isinstance(action, argparse._HelpAction):
            assert "(default: " in action.help, action.option_strings
            said = re.split(r"[,;]|\)$", action.help.rpartition("(default: ")[2])[0]
            if said == "no":
                assert action.default is False
            elif isinstance(action.default, str):
                assert said in ("%(default)s", action.default)


@pytest.fixture
def segmented(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Inputs of the calls of ``segment``, which does nothing here."""
    calls: list[list[str]] = []
    monkeypatch.setattr(
        "vesselseg.cli.segment.segment", lambda options: calls.append(options.inputs) or 0
    )
    return calls


@pytest.mark.parametrize("words", [["eye.jpg", "-o", "x"], ["-o", "x", "--", "eye.jpg"]])
def test_without_a_command_it_is_segment(words: list[str], segmented: list[list[str]]) -> None:
    assert main(words) == 0
    assert main(["segment", *words]) == 0
    assert segmented == [["eye.jpg"]] * 2


def test_commands_win_over_files_of_the_same_name(
    segmented: list[list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("models").touch()
    assert main(["models"]) == 0
    assert "unet_s5-d16_drive" in capsys.readouterr().out
    assert segmented == []
    assert main(["segment", "models", "-o", "x"]) == 0
    assert main(["./models", "-o", "x"]) == 0
    assert segmented == [["models"], ["./models"]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "required: COMMAND"),
        (["docter"], "Did you mean 'doctor'?"),
        (["eye.jpg", "-o", "x", "--overlya"], "unrecognized: --overlya. Did you mean '--overlay'"),
    ],
)
def test_wrong_words_end_with_2_and_a_suggestion(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_word_like_a_command_can_be_an_image(segmented: list[list[str]]) -> None:
    Path("docter").touch()
    for image in ("docter", "models/*.png"):
        assert main([image, "-o", "x"]) == 0
    assert segmented == [["docter"], ["models/*.png"]]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OptionError("no such scale"), 2),
        (UnknownModelError("no such model"), 2),
        (OutputError("no space"), 1),
        (FileNotFoundError("no file"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr("vesselseg.cli.segment.segment", fail)
    assert main(["eye.jpg"]) == code
    said = capsys.readouterr()
    assert said.err == f"vesselseg: {str(error) or 'interrupted'}\n"
    assert said.out == ""


def test_part_of_a_model_name_suggests_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "drive", "-o", "x.onnx"]) == 2
    assert "Did you mean 'unet_s5-d16_drive'" in capsys.readouterr().err
