"""The documentation: examples run, commands and links exist, and all public names are listed."""

import doctest
import importlib
import re
import runpy
import shlex
import shutil

import pytest
from PIL import Image
from support import EXAMPLE

import vesselseg
from vesselseg.cli import build_parser

ROOT = EXAMPLE.parents[1]
DOCS = ROOT / "docs"
PAGES = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md")
    ),
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
def run_examples(tmp_path, monkeypatch, windows_once):  # noqa: ARG001
    """Run doctests in a folder with the example photograph; skip them if an extra is missing."""
    for name in ("examples/fundus.jpg", "photographs/left.jpg", "photographs/right.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(EXAMPLE, tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def run(test):
        if any(example.want for example in test.examples):
            shutil.copy(EXAMPLE, "eye.jpg")
        else:  # a small photograph will do
            with Image.open(EXAMPLE) as image:
                image.reduce(4).save("eye.jpg")
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


@pytest.mark.slow
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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_installs_from_the_repository(page):
    text = re.sub(r"<!-- from a release\n.*?-->", "", page.read_text(), flags=re.DOTALL)
    for line in re.findall(r"pip install .*", text):
        assert "-c constraints.txt " in line, line
        assert not re.search(r"[ \"]vesselseg\b", line), line
    for extra in re.findall(r'"\.\[([\w-]+)\]"', text):
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()


class TestReleased:
    """docs/released.py, which makes the pages and README of a release."""

    @pytest.fixture
    def released(self):
        return runpy.run_path(str(DOCS / "released.py"))

    @pytest.mark.parametrize("page", PAGES, ids=name_of)
    def test_commands_install_from_the_index(self, page, released):
        text = released["install_from_index"](page.read_text())
        if page.name != "CONTRIBUTING.md":
            assert not re.search(r"constraints\.txt (?!-e)", text)
            assert "no release yet" not in text
        assert ("vesselseg[eval]" in text) >= ('".[eval]"' in page.read_text())

    def test_readme_installs_the_package(self, released):
        text = released["install_from_index"]((ROOT / "README.md").read_text())
        text = released["use_own_photographs"](text)
        commands = "".join(re.findall(r"```.*?```", text, re.DOTALL))
        assert 'segment("eye.jpg")' in commands
        assert "examples" not in commands
        assert "\npip install vesselseg\n" in text
        assert 'pip install "vesselseg[app]"' in text
        assert "<!--" not in text

    def test_links_lead_to_the_repository(self, released):
        text = "[a](docs/a.md#b) ![c](d.jpg) [e](https://f.org) [g](#h)"
        link = released["link_to_repository"]
        assert link(text, "https://example.org/v", "1.0") == (
            "[a](https://example.org/v/blob/v1.0/docs/a.md#b) "
            "![c](https://example.org/v/raw/v1.0/d.jpg) [e](https://f.org) [g](#h)"
        )
        assert link(text, "", "1.0") == "a  [e](https://f.org) [g](#h)"


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "index.md"], ids=name_of)
def test_figures_of_the_embedded_model_are_those_of_its_card(page):
    def rows(path):
        """The cells with figures of each row that names a data set with test images."""
        found = re.findall(r"^\| (DRIVE|STARE|CHASE_DB1|HRF)\b(.*)", path.read_text(), re.MULTILINE)
        return {(name, *re.findall(r"\b\d\d\.\d\d\b", rest)[:3]) for name, rest in found}

    quoted = {row for row in rows(page) if len(row) == 4}
    assert len(quoted) == 4
    assert quoted <= rows(ROOT / "vesselseg" / "embedded" / "MODEL_CARD.md")


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
