"""The command as a whole: help, version, the short form, exit codes."""

from __future__ import annotations

import argparse
import logging
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.drawn import photographs
from support.models import tiny_weights

import vesselseg
from vesselseg import MissingExtraError, OptionError, OutputError, UnknownModelError
from vesselseg.cli import build_parser, main
from vesselseg.cli.parser import Parser
from vesselseg.errors import how_to_install


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


COMMANDS = {  # each with the fewest words that it takes
    "segment": "eye.png",
    "measure": "eye.png -o m.csv",
    "evaluate": "folder --dataset drive",
    "train": "images labels -o model.pth",
    "models": "",
    "download": "unet_s5-d16_drive",
    "import": "file.pth --name unet_s5-d16_drive",
    "cache": "",
    "export": "-o model.onnx",
    "app": "",
    "doctor": "",
    "help": "",
}


def commands() -> dict[str, Parser]:
    return build_parser()[1]


def run(*words: str) -> int:
    """The exit code of the command, whether it is returned or raised."""
    try:
        return main(words)
    except SystemExit as stopped:
        return int(stopped.code or 0)


# Help


def test_help_version_and_the_list_of_models_load_nothing_heavy(here: Path) -> None:
    code = (
        "import sys, vesselseg.cli\n"
        "for words in ['--help', '--version', 'train --help', 'help doctor', 'models']:\n"
        "    try: assert vesselseg.cli.main(words.split()) == 0\n"
        "    except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'torch', 'numpy', 'PIL', 'requests', 'tqdm', 'argcomplete'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "VESSELSEG_HOME": str(here)}
    command = [sys.executable, "-c", code]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)


def test_the_help_lists_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--help"], ["help"], ["-h"]):
        assert run(*words) == 0
        said = capsys.readouterr().out
        assert all(f"    {command} " in said for command in COMMANDS)
    assert list(commands()) == list(COMMANDS)
    assert run() == 2  # nothing was asked for
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_terminal_and_can_be_asked_for_in_two_ways(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("help", command) == run(command, "--help") == 0
    said = capsys.readouterr().out
    assert said[: len(said) // 2] == said[len(said) // 2 :]
    assert max(map(len, said.splitlines())) <= 80
    assert f"vesselseg {command}" in said.replace("[segment]", "segment")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented_with_its_default(command: str) -> None:
    for action in commands()[command]._actions:
        assert action.help
        if not action.option_strings or action.dest in ("help", "version", "columns"):
            continue
        if action.required:
            assert action.help.endswith("(required)")
            continue
        assert "(default: " in action.help, action.option_strings
        said = re.split(r"[,;]|\)$", action.help.rpartition("(default: ")[2])[0]
        if isinstance(action.default, str) and action.default is not argparse.SUPPRESS:
            assert said in ("%(default)s", action.default)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_the_help_can_be_parsed(command: str) -> None:
    parser, known = build_parser()
    examples = re.findall(r"^  vesselseg (.+)$", known[command].epilog or "", re.MULTILINE)
    assert examples
    for example in examples:
        first, *_ = words = shlex.split(re.split("[<>]", example)[0])
        parser.parse_args(words if first in known else ["segment", *words])


# Options of every command


@pytest.mark.parametrize("command", COMMANDS)
def test_common_options_stand_before_or_after_the_name(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found: list[tuple[bool, int, bool]] = []
    with_run(monkeypatch, lambda o: found.append((o.quiet, o.verbose, o.progress)) or 0)
    words = [command, *COMMANDS[command].split()]
    assert run(*words) == run("-q", *words) == run(*words, "--quiet") == 0
    assert run("-vv", *words) == run(*words, "-v", "--no-progress") == 0
    assert found == [
        (False, 0, True), (True, 0, False), (True, 0, False), (False, 2, True), (False, 1, False),
    ]  # fmt: skip
    capsys.readouterr()
    assert run("-V") == run("--version") == run(command, "-V") == 0
    assert capsys.readouterr().out == f"vesselseg {vesselseg.__version__}\n" * 3


def with_run(monkeypatch: pytest.MonkeyPatch, run: Callable[[argparse.Namespace], int]) -> None:
    """Let every command do this."""
    parser, known = build_parser()
    for command in known.values():
        command.set_defaults(run=run)
    monkeypatch.setattr("vesselseg.cli.build_parser", lambda: (parser, known))


@pytest.mark.usefixtures("one_thread")
def test_verbose_says_what_is_used_and_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    photographs(Path("p"), ["eye.png"])
    tiny_weights(Path("tiny.pth"))
    for _ in range(2):
        assert run("-v", "p", "-o", "p/out", "-r", "--model", "tiny.pth", "--device", "cpu") == 0
    said = capsys.readouterr().err
    assert said.count("INFO: Model tiny on cpu in float32, with the backend torch.\n") == 2
    assert said.count("left out of 'p': 1 written by vesselseg ('eye.png').\n") == 1


def test_quiet_and_verbose_choose_what_is_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def log(_: argparse.Namespace) -> int:
        for level in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger("vesselseg.somewhere"), level)(f"a {level}")
        return 0

    with_run(monkeypatch, log)
    before = list(logging.root.handlers), logging.getLogger("vesselseg").level
    for words, count in (["-q"], 1), ([], 2), (["-v"], 3), (["-vv"], 4):
        assert run("models", *words) == 0
        said = capsys.readouterr().err.splitlines()
        assert (
            said
            == ["DEBUG: a debug", "INFO: a info", "WARNING: a warning", "ERROR: a error"][-count:]
        )
    assert (list(logging.root.handlers), logging.getLogger("vesselseg").level) == before


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
        ("docter", "Did you mean 'doctor'?"),
        ("version", "there is no command and no image 'version'."),
        ("help docter", "Did you mean 'doctor'?"),
        ("eye.jpg -o x --overlya", "there is no option --overlya. Did you mean '--overlay'"),
        ("measure eye.jpg --outptu x.csv", "no option --outptu. Did you mean '--output'?"),
        ("models --jsno", "Did you mean '--json'?"),
        ("eye.jpg --executor rai", "--executor: 'rai' is not one of local, ray. Did you mean 'r"),
        ("evaluate x --dataset chase-db1", "Did you mean 'chase_db1'"),
        ("eye.jpg -o x --model unet_s5-d16_drvie", "Did you mean 'unet_s5-d16_drive'"),
        ("eye.jpg -o x --device cdua", "Did you mean 'cuda'"),
        ("eye.jpg -o x --backend onnx", "Did you mean 'onnxruntime'"),
        ("eye.jpg -o x --precision bfloat61", "Did you mean 'bfloat16'"),
        ("export drive -o x.onnx", "Did you mean 'unet_s5-d16_drive'"),
        ("doctor now", "unrecognized: now. `vesselseg doctor --help` explains."),
        ("eye.jpg -o", "-o/--output: expected one argument. `vesselseg segment --help` explains."),
    ],
)
def test_mistakes_are_one_line_that_says_what_is_meant(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("vesselseg: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_a_word_like_a_command_can_be_an_image(segmented: list[list[str]]) -> None:
    Path("docter").touch()
    for image in ("docter", "models/*.png"):
        assert main([image, "-o", "x"]) == 0
    assert segmented == [["docter"], ["models/*.png"]]


# Exit codes


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OptionError("no such scale"), 2),
        (UnknownModelError("no such model"), 2),
        (MissingExtraError("no such package"), 2),
        (OutputError("no space"), 2),
        (FileNotFoundError("no file"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_ends_a_command_decides_its_exit_code(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> int:
        raise error

    with_run(monkeypatch, fail)
    assert run("models") == code
    said = capsys.readouterr()
    assert said.err == f"vesselseg: {str(error) or 'interrupted'}\n"
    assert said.out == ""


def receive_sigterm(_: object) -> int:
    """Call what Python would call (tests/cli/test_signals.py sends signals to processes)."""
    handler = signal.getsignal(signal.SIGTERM)
    assert callable(handler)
    handler(signal.SIGTERM, None)
    return 0


def test_signals_that_end_a_process_end_a_command_and_are_the_hosts_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_run(monkeypatch, receive_sigterm)
    assert run("models") == 143
    assert capsys.readouterr().err == "vesselseg: ended by SIGTERM\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    caught: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    try:
        assert run("models") == 0  # a host that has a handler keeps it
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    assert caught == [signal.SIGTERM]
    with_run(monkeypatch, lambda _: 0)
    with ThreadPoolExecutor(1) as threads:  # where no handler can be set
        assert threads.submit(run, "models").result() == 0


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("p/eye.png --model tiny.pth", 0),
        ("p -o out --model tiny.pth", 0),
        ("models", 0),
        ("cache", 0),
        ("p/eye.png missing.png -o out --model tiny.pth", 1),
        ("missing.png --model tiny.pth", 1),
        ("junk.png -o - --model tiny.pth", 1),
        ("missing.png -o - --model tiny.pth", 1),
        ("p junk.png -o out --model tiny.pth --on-error stop", 1),
        ("download unet_s5-d16_drive", 1),
        ("p -o out --part 2/1", 2),
        ("p/*.tif -o out", 2),
        ("p -o out --model missing.pth", 2),
        ("p -o out --model junk.pth", 2),
        ("p -o file/out --model tiny.pth", 2),
        ("p -o out --manifest file/m.csv --model tiny.pth", 2),
        ("measure p -o file/m.csv --model tiny.pth", 2),
        ("evaluate nowhere --dataset drive", 2),
        ("evaluate p --dataset drive --figures file/f.json", 2),
        ("train nowhere labels -o model.pth", 2),
        ("train p p -o file/model.pth", 2),
        ("download drive", 2),
        ("import missing.pth --name unet_s5-d16_drive", 2),
        ("import junk.pth --name unet_s5-d16_drive", 2),
        ("cache --clear drive", 2),
        ("export tiny.pth -o file/x.onnx", 2),
        ("export missing.pth -o x.onnx", 2),
        ("app --model missing.pth --port 0", 2),
        ("help nothing", 2),
    ],
)
def test_the_exit_code_says_what_became_of_it(
    words: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("skan", "skimage", "onnx", "uvicorn", "starlette"):
        pytest.importorskip(module, reason="not all extras are installed")
    monkeypatch.setenv("VESSELSEG_HOME", "cache")
    monkeypatch.setenv("VESSELSEG_OFFLINE", "1")
    photographs(Path("p"), ["eye.png"])
    tiny_weights(Path("tiny.pth"))
    for name in ("junk.png", "junk.pth"):
        Path(name).write_bytes(b"junk")
    Path("file").touch()
    assert run(*words.split()) == code
    said = capsys.readouterr().err
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if not line.startswith(" ")]
    assert len(lines) == len(set(lines)), "something is said twice"
    assert bool(code) <= any(line.startswith("vesselseg: ") for line in lines)


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        ("eye.png -o out --measure --manifest m.csv", "skan", "measure"),
        ("eye.png -o out --dicom", "highdicom", "dicom"),
        ("eye.png -o out --manifest m.parquet", "pyarrow", "ray"),
        ("eye.png -o out --backend openvino", "openvino", "openvino"),
        ("eye.png -o out --model net.onnx", "onnxruntime", "onnx"),
        ("measure eye.png -o m.csv", "skan", "measure"),
        ("evaluate pairs --dataset pairs", "skimage.morphology", "eval"),
        ("export -o x.onnx", "onnx", "onnx"),
        ("app", "uvicorn", "app"),
    ],
)
def test_a_missing_extra_is_named_in_the_same_words(
    words: str,
    module: str,
    extra: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    photographs(Path(), ["eye.png"])
    Path("net.onnx").write_bytes(b"junk")
    assert run(*words.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"vesselseg: This needs {module}, which cannot be imported here (")
    assert said.endswith(f"). {how_to_install(extra)}\n")
    assert said.count("\n") == 1


def test_a_folder_without_photographs_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    assert run("empty", "-o", "out") == 2
    assert capsys.readouterr().err.count("empty") == 1
