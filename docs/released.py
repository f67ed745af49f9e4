"""What changes in README and in these pages once a version is released.

They are written for readers of the repository, who install what they see. A release shows them
with the commands that install it from the index, and the index shows README with links to the
repository.
"""

import re

_EXTRAS = re.compile(r'-c constraints\.txt "\.\[([\w,-]+)\]"')
_PACKAGE = re.compile(r"-c constraints\.txt \.(?=\s|$)", re.MULTILINE)
_UNTIL_RELEASE = re.compile(
    r"<!-- until a release -->\n.*?<!-- from a release\n(.*?)-->\n", re.DOTALL
)
_PHOTOGRAPHS = {
    "examples/fundus.jpg": "eye.jpg",
    '"examples"': '"photographs"',
    "vesselseg examples/ ": "vesselseg photographs/ ",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?://|#)([^)]+)\)")


def install_from_index(text: str) -> str:
    """Return a page whose commands install the release. Those with ``-e`` remain."""
    text = _UNTIL_RELEASE.sub(r"\1", text)
    text = _EXTRAS.sub(r'"vesselseg[\1]"', text)
    return _PACKAGE.sub("vesselseg", text)


def use_own_photographs(text: str) -> str:
    """Return a page whose commands do not need the photograph of the repository."""
    for theirs, yours in _PHOTOGRAPHS.items():
        text = text.replace(theirs, yours)
    return text


def link_to_repository(text: str, repository: str, version: str) -> str:
    """Return a page with absolute links, or with none if `repository` is empty."""

    def absolute(match: re.Match[str]) -> str:
        picture, words, place = match.groups()
        if not repository:
            return "" if picture else words
        kind = "raw" if picture else "blob"
        return f"{picture}[{words}]({repository}/{kind}/v{version}/{place})"

    return _LINK.sub(absolute, text)
