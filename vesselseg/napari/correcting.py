"""Correct the vessels of a folder of photographs, without a viewer: their order, states and files.

The labels that a user paints are 0 for background, 1 for vessel and 2 for "do not know". A
photograph that is done has a correction (:mod:`vesselseg.corrections`). Until then, what was
painted is a draft: ``FOLDER/corrections/drafts/eye.jpg.png``, from which no model learns.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..batch.search import LeftOut, is_photograph, walk
from ..corrections import (
    UNKNOWN,
    VESSEL,
    find_corrections,
    read_correction,
    save_correction,
    worth_correcting,
    write_values,
)
from ..errors import DatasetError, ImageError, VesselsegError
from ..files import is_file
from ..images import decode
from ..labels import CORRECTIONS
from ..result import read_provenance

if TYPE_CHECKING:
    from ..result import Segmentation

_DRAFTS = "drafts"


class Painting(NamedTuple):
    """Labels of uint8 (H, W), and the provenance of the mask that was painted over."""

    labels: NDArray[np.uint8]
    provenance: Mapping[str, Any]


class Proposal:
    """What a model found in a photograph. The mask is kept compressed."""

    def __init__(self, result: Segmentation) -> None:
        self.shape = result.shape
        self.provenance = result.provenance
        self._packed = zlib.compress(np.packbits(result.mask).tobytes(), 1)

    def to_painting(self) -> Painting:
        """The mask as labels."""
        bits = np.frombuffer(zlib.decompress(self._packed), np.uint8)
        labels = np.unpackbits(bits, count=self.shape[0] * self.shape[1])
        return Painting(labels.reshape(self.shape), self.provenance)


class Session:
    """The photographs of a folder in the order to correct them, and the one that is shown.

    Drafts come first, then what is most worth correcting, and last what is done.

    Raises FileNotFoundError or ImageError if there is no such folder or it cannot be read, and
    DatasetError if it holds no photographs, or corrections that belong to none.
    """

    def __init__(self, folder: Path) -> None:
        found = walk(folder, LeftOut(), lambda _: False)
        self.photographs = [path for path in found if is_photograph(path, LeftOut())]
        if not self.photographs:
            raise DatasetError(f"There is no photograph in {str(folder)!r}. Choose another folder.")
        self.folder = folder
        self.corrections = dict(find_corrections(folder))
        self.proposals: dict[Path, Proposal | str] = {}  # a message if there can be none
        self.sort()
        self.shown = self.photographs[0]

    def state(self, photograph: Path) -> str:
        """Return "done", "draft", or "" for a photograph that nobody has corrected."""
        if photograph in self.corrections:
            return "done"
        return "draft" if is_file(self._draft_of(photograph)) else ""

    def sort(self) -> None:
        """Sort the photographs by what is known of them now."""
        proposals = list(self.proposals.items())  # a thread may add to them
        rows = [
            {**each.provenance, "input": photograph}  # as in a manifest
            for photograph, each in proposals
            if isinstance(each, Proposal)
        ]
        worth = [row["input"] for row in worth_correcting(rows)]
        groups = ("draft", "", "done")

        def order(photograph: Path) -> tuple[int, int, str]:
            place = worth.index(photograph) if photograph in worth else len(worth)
            return groups.index(self.state(photograph)), place, str(photograph)

        self.photographs = sorted(self.photographs, key=order)

    def neighbour(self, step: int) -> Path:
        """The photograph that is `step` places further down the list, which ends at both ends."""
        place = self.photographs.index(self.shown) + step
        return self.photographs[min(max(place, 0), len(self.photographs) - 1)]

    def next_to_correct(self) -> Path | None:
        """The first photograph after the one that is shown, round the list, that is not done."""
        others = self._from_shown()[1:]
        return next((path for path in others if self.state(path) != "done"), None)

    def load(self, photograph: Path) -> Painting | None:
        """What was painted on a photograph, or what the model found; None before it has looked.

        Raises DatasetError or ImageError if its file is damaged or it cannot be segmented.
        """
        draft = self._draft_of(photograph)
        if photograph in self.corrections:
            file = self.corrections[photograph]
            return _to_painting(read_correction(file), file)
        if is_file(draft):
            return _to_painting(decode(draft).rgb[..., 0], draft)
        proposal = self.proposals.get(photograph)
        if isinstance(proposal, str):
            raise ImageError(proposal)
        return proposal.to_painting() if proposal else None

    def save(self, photograph: Path, painting: Painting) -> None:
        """Write what was painted: to the correction if the photograph is done, else to a draft."""
        if photograph in self.corrections:
            self.mark_done(photograph, painting)
        else:
            self._save_draft(photograph, painting)

    def mark_done(self, photograph: Path, painting: Painting) -> None:
        """Write the correction, and remove the draft."""
        values = _to_values(painting.labels)
        self.corrections[photograph] = save_correction(photograph, values, painting.provenance)
        self._draft_of(photograph).unlink(missing_ok=True)

    def mark_not_done(self, photograph: Path, painting: Painting) -> None:
        """Make a draft of a correction."""
        self._save_draft(photograph, painting)
        self.corrections.pop(photograph).unlink(missing_ok=True)

    def propose(self, load: Callable[[], Callable[[Path], Segmentation]]) -> Iterator[Path]:
        """Segment the photographs that nobody has corrected, the one that is shown first.

        `load` returns a model. Earlier proposals are dropped. Yields each photograph whose proposal
        has come. Runs in a thread; a second call takes over from the first.
        """
        self.proposals = {}
        return self._propose(load, self.proposals)

    def _propose(
        self,
        load: Callable[[], Callable[[Path], Segmentation]],
        proposals: dict[Path, Proposal | str],
    ) -> Iterator[Path]:
        segment = None
        while (photograph := self._next_to_segment(proposals)) is not None:
            segment = segment or load()
            try:
                proposals[photograph] = Proposal(segment(photograph))
            except (VesselsegError, FileNotFoundError) as error:
                proposals[photograph] = str(error)
            yield photograph

    def _next_to_segment(self, proposals: Mapping[Path, Any]) -> Path | None:
        missing = (path for path in self._from_shown() if path not in proposals)
        return next((path for path in missing if not self.state(path)), None)

    def _save_draft(self, photograph: Path, painting: Painting) -> None:
        values = _to_values(painting.labels)
        write_values(
            self._draft_of(photograph), values, photograph, painting.provenance, draft=True
        )

    def _from_shown(self) -> list[Path]:
        """All photographs, from the one that is shown round the list."""
        place = self.photographs.index(self.shown)
        return self.photographs[place:] + self.photographs[:place]

    def _draft_of(self, photograph: Path) -> Path:
        return self.folder / CORRECTIONS / _DRAFTS / f"{photograph.name}.png"


def _to_painting(values: NDArray[np.uint8], file: Path) -> Painting:
    """The labels of the values in a file."""
    labels = np.select([values == VESSEL, values == UNKNOWN], [1, 2], 0).astype(np.uint8)
    return Painting(labels, read_provenance(file).get("painted_over", {}))


def _to_values(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """The values of a correction file. Labels other than 1 and 2 are shown as background."""
    return np.select([labels == 1, labels == 2], [VESSEL, UNKNOWN], 0).astype(np.uint8)
