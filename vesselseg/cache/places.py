"""Where weights may be: the cache folder, mirrors, and the published addresses."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias
from urllib.parse import quote

from ..registry import REGISTRY
from ..errors import OptionError
from ..spec import ModelSpec, Source

Place: TypeAlias = "str | Path"
"""An address, or a file on this machine."""


def cache_folder() -> Path:
    """Where weights are kept: ``VESSELSEG_HOME``, or the user's cache folder."""
    home = os.environ.get("VESSELSEG_HOME", "").strip()
    if home:
        return Path(home).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("vesselseg", appauthor=False)


def mirrors() -> list[Place]:
    """Folders and base addresses in ``VESSELSEG_MIRROR``."""
    texts = [text.strip() for text in os.environ.get("VESSELSEG_MIRROR", "").split(",")]
    return [
        text if re.match(r"[A-Za-z][\w+.-]+://", text) else Path(text).expanduser().absolute()
        for text in texts
        if text
    ]


def offline() -> bool:
    """Whether ``VESSELSEG_OFFLINE`` forbids the network."""
    text = os.environ.get("VESSELSEG_OFFLINE", "").strip().lower()
    return text not in ("", "0", "false", "no", "off")


def packaged(spec: ModelSpec) -> Path | None:
    """The file inside the package, for a record whose weights come with it."""
    for source in spec.sources:
        if source.url.startswith("package:"):
            return Path(__file__).parents[1] / "embedded" / source.filename
    return None


def sources(spec: ModelSpec) -> tuple[Source, ...]:
    """The names under which the file may lie in a cache or mirror, the current one first.

    Raises
    ------
    OptionError
        If an address does not end in what can be the name of a file.
    """
    found = spec.sources or (Source(spec.filename),)
    for source in found:
        if not re.fullmatch(r"\w[\w .+=@,()-]*", source.filename):
            raise OptionError(
                f"{source.url!r} of the model {spec.name!r} does not end in a file name "
                f"(letters, digits and . _ - only)."
            )
    return found


def places(spec: ModelSpec) -> Iterator[tuple[Source, Place]]:
    """Where the file may be had, in the order in which it is asked for."""
    for mirror in mirrors():
        for source in sources(spec):
            if isinstance(mirror, Path):
                yield source, mirror / source.filename
            else:
                yield source, f"{mirror.rstrip('/')}/{quote(source.filename)}"
    for source in spec.sources:
        yield source, source.url


def shown(place: Place) -> str:
    """A place as it may be told: without the password that an address can hold."""
    return str(place) if isinstance(place, Path) else re.sub(r"//[^/@]*@", "//", place)


def nowhere(spec: ModelSpec, answers: list[tuple[str, str]]) -> str:
    """What to tell somebody whose weights could not be had: why, and what to do."""
    lines = [
        f"The weights of {spec.name!r} could not be had"
        + (" (VESSELSEG_OFFLINE is set)." if offline() else ".")
        + (" Asked, and what they answered:" if answers else " No address is known.")
    ]
    for place, answer in answers:
        lines += [f"  {place}", f"    {answer}"]
    lines += ["To bring them by hand, get the file by any means and put it at"]
    for number, source in enumerate(sources(spec)):
        lines += ["or"] * (number > 0) + [f"  {cache_folder() / source.filename}"]
        if source.sha256:
            lines += [f"    whole SHA-256 {source.sha256}"]
        elif source.digits:
            lines += [f"    SHA-256 begins with {source.digits}"]
    lines += [
        f"or let it be checked and put there: {_import(spec)}",
        "Variables that help:",
        f"  VESSELSEG_MIRROR ({_value('VESSELSEG_MIRROR')}): folders or base addresses that hold "
        f"the file",
        f"  VESSELSEG_HOME ({_value('VESSELSEG_HOME')}): the cache folder",
        f"  VESSELSEG_OFFLINE ({_value('VESSELSEG_OFFLINE')}): 1 for no network",
        "  HTTPS_PROXY, REQUESTS_CA_BUNDLE: the way out, and the certificates to trust",
    ]
    return "\n".join(lines)


def _import(spec: ModelSpec) -> str:
    if REGISTRY.get(spec.name) == spec:
        return f"vesselseg import FILE --name {spec.name}"
    return "vesselseg.cache.import_file(FILE, RECORD)"


def _value(variable: str) -> str:
    text = os.environ.get(variable)
    return f"now {shown(text)!r}" if text else "not set"
