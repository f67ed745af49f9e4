"""The documentation: examples run, commands and links exist, and all public names are listed."""

import doctest
import importlib
import re
import shlex
import shutil

import pytest
from support import EXAMPLE

import vesselseg
from vesselseg.cli import build_parser

ROOT = EXAMPLE.parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *(path for path in sorted(DOCS.rglob("*.md")) if "_build" not in path.parts),
]
MODULES = [path for path in sorted(ROOT.glob("vesselseg/**/*.py")) if ">>>" in path.read_text()]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def slow_if_it_segments(path):
    """A parameter, marked as slow if the examples in a file segment photographs."""
    lines = [line.strip() for line in path.read_text().splitlines()]
    examples = "\n".join(line for line in lines if line.startswith((">>>", "...")))
    segments = re.search(r"eye\.jpg|fundus\.jpg|photographs|examples\"", examples)
    return pytest.param(path, marks=pytest.mark.slow) if segments else path


def blocks(page, language):
    """The code blocks of a page in one language, as they are; every other line is empty."""
    inside, kept = "", []
    for line in page.read_text().splitlines():
        fence = re.match(r"\s*```(\S*)", line)
        if fence:
            inside = "" if inside else fence[1] or "text"
        kept.append(line if inside == language and not fence else "")
    return "\n".join(kept)


@pytest.fixture
def run_examples(tmp_path, monkeypatch):
    """Run doctests in a folder with the example photograph; skip them if an extra is missing."""
    for name in ("eye.jpg", "examples/fundus.jpg", "photographs/left.jpg", "photographs/right.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(EXAMPLE, tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def run(test):
        try:
            doctest.DebugRunner(optionflags=FLAGS).run(test)
        except doctest.DocTestFailure as failure:
            line = test.lineno + failure.example.lineno + 1
            pytest.fail(
                f"{test.filename}:{line}: {failure.example.source}"
                f"expected: {failure.example.want}got: {failure.got}"
            )
        except doctest.UnexpectedException as unexpected:
            error = unexpected.exc_info[1]
            if isinstance(error, ImportError):
                pytest.skip(str(error))
            raise error from None

    return run


@pytest.mark.parametrize("page", [slow_if_it_segments(page) for page in PAGES], ids=name_of)
def test_the_examples_of_a_page_run(page, run_examples):
    source = blocks(page, "python")
    if ">>>" not in source:
        compile(source, page, "exec")
        return
    run_examples(doctest.DocTestParser().get_doctest(source, {}, page.stem, str(page), 0))


@pytest.mark.slow
@pytest.mark.parametrize("path", [slow_if_it_segments(path) for path in MODULES], ids=name_of)
def test_the_examples_of_a_module_run(path, run_examples):
    name = name_of(path.with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for test in doctest.DocTestFinder().find(importlib.import_module(name)):
        run_examples(test)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_exist(page):
    parser, commands = build_parser()
    text = re.sub(r"\\\n\s*", "", blocks(page, "sh"))
    for line in text.splitlines():
        for words in re.findall(r"(?:^|&& )vesselseg ([^|<>&#]+)", line.strip()):
            arguments = shlex.split(words)
            if not {arguments[0]} & {*commands, "--version", "--help"}:
                arguments.insert(0, "segment")
            parser.parse_args(arguments)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_a_page_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


def test_every_public_name_is_in_the_reference():
    reference = "\n".join(page.read_text() for page in (DOCS / "reference").glob("*.md"))
    for name in set(vesselseg.__all__) - {"__version__"}:
        assert re.search(rf"auto\w+:: (vesselseg\.)?{name}\n", reference), name


@pytest.mark.slow
def test_every_column_of_the_manifest_is_described(tmp_path):
    rows = []
    vesselseg.segment_folder(
        EXAMPLE, tmp_path, kinds=("probability", "overlay", "fov"), device="cpu", scale=0.2,
        on_row=rows.append,
    )  # fmt: skip
    page = (DOCS / "reference" / "manifest.md").read_text()
    for name in ("error", *rows[0]):
        assert re.search(rf"^\|.*`{name}`.*\|", page, re.MULTILINE), name
