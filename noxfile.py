"""What a contributor runs: ``nox`` for the daily checks, ``nox --list`` for all.

The hosted checks and ``.ci/run`` run the same sessions. With ``--no-venv``, the environment that is
active is used as it is.
"""

import nox

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "tests"]
nox.options.reuse_existing_virtualenvs = True

PARALLEL = ["-n", "2", "--dist", "loadfile"]  # two processes, a test file in one of them


def install(session: nox.Session, *packages: str) -> None:
    """Install the tested versions, unless the session uses the active environment."""
    if session.virtualenv.is_sandboxed:
        session.install("-c", "constraints.txt", *packages)


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, types, and an import that loads nothing heavy."""
    install(session, "-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    heavy = "import sys, vesselseg; assert not {'torch', 'PIL', 'requests'} & set(sys.modules)"
    session.run("python", "-W", "error", "-c", heavy)


@nox.session
def tests(session: nox.Session) -> None:
    """The quick tests, or those that follow --."""
    install(session, "-e", ".[dev]")
    quick = ["-m", "not slow", *PARALLEL]
    session.run("python", "-m", "pytest", *(session.posargs or quick))


@nox.session
def full(session: nox.Session) -> None:
    """All tests, with warnings as errors, and a tenth of the injected faults."""
    install(session, "-e", ".[test]")
    session.run("python", "-m", "pytest", "-W", "error", *PARALLEL, *session.posargs)
    session.run("python", "tests/faults.py", "--scale", "0.1")


@nox.session
def newest(session: nox.Session) -> None:
    """All tests with the newest versions of the dependencies."""
    session.install("--upgrade", "-e", ".[test]")
    session.run("python", "-m", "pytest", "-W", "default", *PARALLEL, *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, in docs/_build, with warnings as errors; and the notebook."""
    install(session, "-e", ".[docs,test]")
    session.run("sphinx-build", "-W", "--keep-going", "-n", "-q", "docs", "docs/_build")
    session.run("python", "-m", "pytest", "-q", "-W", "error", "tests/test_notebook.py")


@nox.session
def workflows(session: nox.Session) -> None:
    """The files of the hosted checks: their schemas, and known weaknesses."""
    install(session, "check-jsonschema", "zizmor", "pre-commit")
    check = ["check-jsonschema", "--builtin-schema"]
    paths = ["quick.yml", "full.yml", "release.yml"]
    session.run(*check, "vendor.github-workflows", *(f".github/workflows/{path}" for path in paths))
    session.run(*check, "vendor.dependabot", ".github/dependabot.yml")
    for form in ("bug.yml", "feature.yml"):
        session.run(*check, "vendor.github-issue-forms", f".github/ISSUE_TEMPLATE/{form}")
    session.run(*check, "vendor.github-issue-config", ".github/ISSUE_TEMPLATE/config.yml")
    session.run("zizmor", "--offline", "--quiet", ".github")
    session.run("pre-commit", "validate-config", ".pre-commit-config.yaml")
