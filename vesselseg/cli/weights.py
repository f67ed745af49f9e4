"""``vesselseg download``, ``import`` and ``cache``: the weights on this machine."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..spec import ModelSpec


_KINDS = {
    ".part": ", a part that the next download continues",
    ".made": ", made from the weights here",
}


def add_parsers(commands: Any) -> None:
    """Add the parsers of this module's commands."""
    parser = commands.add_parser(
        "download",
        help="download weights into the cache, for use without a network",
        description="Download weights into the cache, and write the path and SHA-256 of each. "
        "What is there already is not downloaded again.",
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("names", metavar="NAME", nargs="*", default=[], help="models to download")
    which.add_argument(
        "--all", action="store_true", help="download every published model (default: no)"
    )
    parser.add_argument(
        "--force", action="store_true",
        help="download again; another file than the one there is refused (default: no)",
    )  # fmt: skip
    parser.set_defaults(run=_download)

    parser = commands.add_parser(
        "import",
        help="take a weights file that was got by other means into the cache",
        description="Check a weights file as after a download and copy it into the cache.",
    )
    parser.add_argument("file", metavar="FILE", help="the weights file")
    parser.add_argument("--name", required=True, help="the model that it is (required)")
    parser.set_defaults(run=_import)

    parser = commands.add_parser(
        "cache",
        help="show or clear the folder of downloaded weights",
        description="Show where the downloaded weights are and how large, with what was made from "
        "weights here, or remove them.",
    )
    parser.add_argument(
        "--clear", metavar="NAME", nargs="*",
        help="remove the files of these models, or of all if none is named (default: nothing)",
    )  # fmt: skip
    parser.set_defaults(run=_cache)


def _download(options: argparse.Namespace) -> int:
    from ..registry import find_spec, list_models

    logging.getLogger("vesselseg.cache").setLevel(logging.INFO)  # says what it waits for
    records = list_models() if options.all else [find_spec(name) for name in options.names]
    done = [_downloaded(record, options.force) for record in records]
    return 0 if all(done) else 1


def _downloaded(record: ModelSpec, force: bool) -> bool:
    """Whether one of several could be had; the others are tried in any case."""
    from .. import cache
    from ..errors import DownloadError

    try:
        _tell(cache.download(record, force=force))
    except DownloadError as error:
        print(f"vesselseg: {error}", file=sys.stderr)
        return False
    return True


def _import(options: argparse.Namespace) -> int:
    from .. import cache

    _tell(cache.import_file(options.file, options.name))
    return 0


def _tell(path: Path) -> None:
    from ..cache import notes
    from ..files import sha256

    note = notes.read(path)
    print(f"{path}  SHA-256 {note.sha256 if note else sha256(path)}")


def _cache(options: argparse.Namespace) -> int:
    from .. import cache

    if options.clear is not None:
        removed = []
        for name in options.clear or [None]:
            removed += cache.clear(name)
        print(f"{len(removed)} files removed from {cache.cache_folder()}")
        return 0
    sizes = {path: path.stat().st_size for path in cache.contents()}
    weights = {path: size for path, size in sizes.items() if path.suffix != ".json"}
    print(f"{cache.cache_folder()}: {len(weights)} files, {sum(sizes.values()) / 1e6:.1f} MB")
    for path, size in weights.items():
        print(f"  {path.name}: {size / 1e6:.1f} MB{_KINDS.get(path.suffix, '')}")
    return 0
