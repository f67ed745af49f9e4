"""Completion in shells: what is offered at the end of a line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vesselseg.choices import PRECISIONS
from vesselseg.cli import build_parser
from vesselseg.registry import list_models

pytest.importorskip("argcomplete", reason='pip install "vesselseg[completion]"')

MODELS = {spec.name for spec in list_models()}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def offers(line: str) -> set[str]:
    """What the command answers to the function that argcomplete defines in a shell."""
    question = {
        "COMP_LINE": line, "COMP_POINT": str(len(line.encode())), "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_STDOUT_FILENAME": "answer",
    }  # fmt: skip
    code = "import sys; from vesselseg.cli import main; main(); sys.exit('no answer')"
    command = [sys.executable, "-c", code]
    subprocess.run(command, env={**os.environ, **question}, check=True)
    return {word.strip() for word in Path("answer").read_text().split("\n")} - {""}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("vesselseg ", set(build_parser()[1])),
        ("vesselseg -q mo", {"models"}),
        ("vesselseg help do", {"download", "doctor"}),
        ("vesselseg segment eye.jpg --ov", {"--overlay", "--overlay-style"}),
        ("vesselseg eye.jpg --ov", {"--overlay", "--overlay-style"}),
        ("vesselseg eye.jpg --model ", MODELS),
        ("vesselseg eye.jpg --precision ", set(PRECISIONS)),
        ("vesselseg train a b --device c", {"cpu", "cuda"}),
        ("vesselseg download unet_s5-d16_d", {x for x in MODELS if x.startswith("unet_s5-d16_d")}),
        ("vesselseg segment ey", {"eye.jpg"}),
        ("vesselseg nothing.jpg --nothing", set()),
    ],
)
def test_what_can_follow_is_offered(line: str, expected: set[str]) -> None:
    Path("eye.jpg").touch()
    assert offers(line) == expected


def test_names_are_offered_without_loading_pytorch() -> None:
    Path("torch.py").write_text("raise SystemExit('PyTorch is loaded')")
    assert offers("vesselseg eye.jpg --backend o") == {"onnxruntime", "openvino"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_line_in_bash_is_completed(here: Path) -> None:
    program = here / "bin" / "vesselseg"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vesselseg "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(register-python-argcomplete vesselseg)"\n'
        "COMP_LINE='vesselseg eye.jpg --overlay-' COMP_POINT=28 COMP_TYPE=9\n"
        "COMP_WORDS=(vesselseg eye.jpg --overlay-) COMP_CWORD=2\n"
        '_python_argcomplete vesselseg -- eye.jpg\necho "${COMPREPLY[@]}"\n'
    )
    path = os.pathsep.join(
        [str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"]]
    )
    said = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert said.stdout.split() == ["--overlay-style"]
