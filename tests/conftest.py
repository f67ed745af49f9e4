"""What many tests share: a narrow model, its file in the published layout, a photograph."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from published_layout import narrow_shapes, seeded_state
from serving import content, home, other, record, server  # noqa: F401 (fixtures)

import vesselseg
from vesselseg import ModelSpec, Segmenter

EXAMPLE = Path(__file__).parents[1] / "examples" / "fundus.jpg"

NARROW = ModelSpec(
    name="narrow", dataset="test", crop=64, stride=42, width=8, scale="native", fov_diameter=500
)
"""The published network with an eighth of its channels."""


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Narrow networks gain nothing from threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def published_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of `NARROW` in mmsegmentation's layout."""
    path = tmp_path_factory.mktemp("weights") / "narrow.pth"
    meta = {"CLASSES": ("background", "vessel"), "iter": 40000}
    state = seeded_state(narrow_shapes("fcn", 8), seed=1)
    state["decode_head.conv_seg.bias"] = torch.tensor([-0.386, 0.316])  # half vessel
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


@pytest.fixture(scope="session")
def model(published_file: Path) -> Segmenter:
    """A `NARROW` model on the CPU."""
    return vesselseg.load_model(NARROW, weights=published_file, device="cpu")


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """The example photograph, reduced to 283 x 283 pixels: (H, W, 3) uint8 RGB."""
    with Image.open(EXAMPLE) as image:
        return np.asarray(image.reduce(5))
