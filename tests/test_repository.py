"""Hosted checks, hooks and sessions fit each other and the pinned versions."""

import re

import pytest
from support import EXAMPLE

ROOT = EXAMPLE.parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

pytestmark = pytest.mark.skipif(
    not (ROOT / ".github").exists(), reason="the source distribution has no hosted checks"
)


def test_hooks_have_the_pinned_versions():
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    versions = re.findall(r"additional_dependencies: \[(.+)\]", hooks)
    assert len(versions) == hooks.count("- id:")
    for version in versions:
        assert any(pin.partition(";")[0] == version for pin in pins), version


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_sessions_and_scripts_that_exist(path):
    text = path.read_text()
    noxfile = (ROOT / "noxfile.py").read_text()
    sessions = re.findall(r"nox --session (\w+)", text)
    for matrix in re.findall(r"session: \[(.+)\]", text):
        sessions += matrix.split(", ")
    scripts = re.findall(r"bash (\.ci/\w+)", text)
    assert sessions or scripts
    assert all(f"@nox.session\ndef {name}(" in noxfile for name in sessions)
    assert all((ROOT / script).exists() for script in scripts)


def test_the_session_of_workflows_checks_every_file():
    noxfile = (ROOT / "noxfile.py").read_text()
    for path in (*WORKFLOWS, *(ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()):
        assert path.name in noxfile
