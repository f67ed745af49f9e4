"""Sphinx's configuration: ``sphinx-build -W --keep-going -n docs docs/_build``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from numpydoc.xref import DEFAULT_LINKS

import vesselseg
from vesselseg.cli import build_parser
from vesselseg.formats import formats_with_endings

sys.path.insert(0, str(Path(__file__).parent))
from released import install_from_index

project = "vesselseg"
author = "The vesselseg authors"
release = vesselseg.__version__
exclude_patterns = ["_build"]
nitpicky = True

extensions = ["myst_parser", "sphinx.ext.autodoc", "numpydoc", "sphinx_copybutton"]

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "vesselseg"
html_static_path = ["_static"]
html_css_files = ["vesselseg.css"]
html_copy_source = False
html_show_copyright = False
copybutton_exclude = ".linenos, .gp, .go"  # prompts and output

autodoc_typehints = "none"  # the docstrings describe types, shapes and ranges
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False
numpydoc_xref_param_type = True
numpydoc_xref_aliases = {name: f"vesselseg.{name}" for name in vesselseg.__all__}
numpydoc_xref_ignore = "all"  # other words
DEFAULT_LINKS.clear()  # to the documentation of Python and NumPy, which is not part of this site

myst_enable_extensions = ["substitution"]
myst_heading_anchors = 3


def table_of_models() -> str:
    """The registry as a Markdown table."""
    rows = ["| model | head | loss | data set | windows, stride | Dice | mDice |"]
    rows += ["|---|---|---|---|---|---|---|"]
    for spec in vesselseg.list_models():
        scores = [f"{score:.2f}" if score else "" for score in (spec.dice, spec.mdice)]
        windows = f"{spec.crop}, {spec.stride}"
        cells = (f"`{spec.name}`", spec.head, spec.loss, spec.dataset, windows, *scores)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def table_of_terms() -> str:
    """The terms of the data sets as a Markdown table."""
    terms = {spec.dataset: spec.data_terms for spec in vesselseg.list_models()}
    rows = [f"| {dataset} | {text} |" for dataset, text in terms.items()]
    return "\n".join(["| data set | terms |", "|---|---|", *rows])


def table_of_formats() -> str:
    """The image formats that are read as a Markdown table."""
    rows = [f"| {name} | {' '.join(row)} |" for name, row in formats_with_endings().items()]
    return "\n".join(["| format | endings |", "|---|---|", *rows])


def help_of_commands() -> str:
    """A section with the ``--help`` of each command."""
    os.environ["COLUMNS"] = "80"  # argparse wraps its texts at the width of the terminal
    parser, commands = build_parser()
    sections = [f"```text\n{parser.format_help()}```"]
    for name, command in commands.items():
        sections.append(f"### vesselseg {name}\n\n```text\n{command.format_help()}```")
    return "\n\n".join(sections)


myst_substitutions = {
    "models": table_of_models(),
    "terms": table_of_terms(),
    "commands": help_of_commands(),
    "formats": table_of_formats(),
}

# Links in included files -> where the same thing is, seen from the page that includes them.
LINKS = {
    "../examples/README.md": "../tutorial.md",
    "README.md": "training.md",
    "RESULTS.md": "training-results.md",
    "compare.py": "../../training/compare.py",
    "evaluate.py": "../../training/evaluate.py",
    "docs/reference/images.md": "../reference/images.md",
    "docs/how-to/add-a-model.md": "../how-to/add-a-model.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "SECURITY.md": "security.md",
    "docs/how-to/embed.md#usage-data-of-other-libraries": (
        "../how-to/embed.md#usage-data-of-other-libraries"
    ),
}


def replace_links(app: object, path: object, parent: str, content: list[str]) -> None:
    """Replace the links of an included file."""
    for link, place in LINKS.items():
        content[0] = content[0].replace(f"]({link})", f"]({place})")


def show_release(app: object, name: str, content: list[str]) -> None:
    """Let the pages of a release install it from the index."""
    if ".dev" not in release:
        content[0] = install_from_index(content[0])


def setup(app: object) -> None:
    """Connect the events of pages and included files."""
    app.connect("include-read", replace_links)
    app.connect("source-read", show_release)
