"""The build's own part: README as the index shows it."""

import runpy
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


class ReadmeHook(MetadataHookInterface):
    """README with absolute links and, for a release, the commands that install it."""

    def update(self, metadata: dict) -> None:
        """Add the readme to the project's metadata."""
        root = Path(self.root)
        released = runpy.run_path(str(root / "docs" / "released.py"))
        version = runpy.run_path(str(root / "vesselseg" / "_version.py"))["__version__"]
        text = (root / "README.md").read_text(encoding="utf-8")
        if ".dev" not in version:
            text = released["use_own_photographs"](released["install_from_index"](text))
        repository = metadata.get("urls", {}).get("Repository", "")
        text = released["link_to_repository"](text, repository, version)
        metadata["readme"] = {"content-type": "text/markdown", "text": text}
