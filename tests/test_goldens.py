"""Logits equal those of mmsegmentation for every head and every published window.

Small deviations from its method are detected.
"""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from support.models import GOLDENS, SHAPES, seeded_state
from torch.nn import functional

from vesselseg import Segmenter, weights
from vesselseg.backends.pytorch import TorchBackend
from vesselseg.registry import find_spec
from vesselseg.unet import UNet

SLIDES = sorted(path.stem for path in GOLDENS.glob("slide-*.npz"))
PIPELINES = sorted(path.stem for path in GOLDENS.glob("pipeline-*.npz"))
TOLERANCE = 1e-4  # of the largest magnitude
SMALLEST = "slide-fcn-drive-131x150"


Load = Callable[[str], tuple[dict[str, np.ndarray], Segmenter]]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """A function: name -> a golden, and the published model of its name with its weights.

    Goldens of one head differ in the bias of the logits alone, so their network is read once.
    """
    networks: dict[tuple[str, int], UNet] = {}

    def load(name: str) -> tuple[dict[str, np.ndarray], Segmenter]:
        with np.load(GOLDENS / f"{name}.npz") as file:
            golden = dict(file)
        head, dataset, seed = str(golden["head"]), str(golden["dataset"]), int(golden["seed"])
        spec = find_spec(f"unet_s5-d16_{'' if head == 'fcn' else f'{head}_'}{dataset}")
        if (head, seed) not in networks:
            path = tmp_path_factory.mktemp("golden") / "golden.pth"
            torch.save({"meta": {}, "state_dict": seeded_state(SHAPES[head], seed)}, path)
            networks[head, seed] = weights.load_network(path, spec)
            path.unlink()
        network = networks[head, seed]
        assert network.head is not None
        network.head.classifier.bias.data = torch.from_numpy(golden["bias"])
        return golden, Segmenter(TorchBackend(network, spec, "cpu", "float32"), spec, sha256="")

    return load


def deviation(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over the largest magnitude."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def assert_same_mask(ours: np.ndarray, theirs: np.ndarray, margin: np.ndarray) -> None:
    """Masks are equal, but for ties: pixels whose two logits are equal within the tolerance."""
    tie = np.abs(margin) <= TOLERANCE * np.abs(margin).max()
    assert tie.mean() < 1e-3
    assert np.array_equal(ours[~tie], theirs[~tie])


@pytest.mark.parametrize(
    "name",
    [name if name == SMALLEST else pytest.param(name, marks=pytest.mark.slow) for name in SLIDES],
)
def test_logits_equal_slide_inference(name: str, load: Load) -> None:
    golden, model = load(name)
    logits = model.logits(golden["image"], scale="native").numpy()
    largest = deviation(logits, golden["logits"])
    print(f"{name}: {largest:.1e} of the largest magnitude")
    assert largest < TOLERANCE
    margin = golden["logits"][1] - golden["logits"][0]
    assert_same_mask(logits[1] > logits[0], margin > 0, margin)


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_results_equal_inference_model(name: str, load: Load) -> None:
    golden, model = load(name)
    logits = model.logits(golden["image"]).numpy()
    margin = golden["margin"].astype(np.float32)  # kept in float16: 11 binary digits
    assert deviation(logits[1] - logits[0], margin) < TOLERANCE + 2**-11
    mask = np.unpackbits(golden["mask"])[: margin.size].reshape(margin.shape).astype(bool)
    assert_same_mask(logits[1] > logits[0], mask, margin)


def test_goldens_cover_all_heads_and_windows() -> None:
    parts = [name.split("-") for name in SLIDES]
    assert {part[1] for part in parts} == {"fcn", "pspnet", "deeplabv3"}
    assert {part[2] for part in parts} == {"drive", "stare", "chase_db1", "hrf"}


@pytest.fixture(scope="module")
def loaded(load: Load) -> tuple[dict[str, np.ndarray], Segmenter]:
    return load(SMALLEST)


@pytest.mark.slow
class TestDeviationsAreDetected:
    """Deviations that a careless implementation would have."""

    def logits(self, model: Segmenter, image: np.ndarray) -> np.ndarray:
        return model.logits(image, scale="native").numpy()

    def test_flipped_align_corners_are_detected(self, loaded, monkeypatch) -> None:
        golden, model = loaded

        interpolate = functional.interpolate

        def flipped(x, **options):
            return interpolate(x, **{**options, "align_corners": True})

        monkeypatch.setattr(functional, "interpolate", flipped)
        assert deviation(self.logits(model, golden["image"]), golden["logits"]) > TOLERANCE

    @pytest.mark.parametrize("change", [-1, 1])
    def test_a_stride_off_by_one_is_detected(self, loaded, change: int) -> None:
        golden, model = loaded
        changed = copy.copy(model)
        changed.spec = dataclasses.replace(model.spec, stride=model.spec.stride + change)
        assert deviation(self.logits(changed, golden["image"]), golden["logits"]) > TOLERANCE

    def test_exchanged_colours_are_detected(self, loaded) -> None:
        golden, model = loaded
        swapped = np.ascontiguousarray(golden["image"][..., ::-1])
        assert deviation(self.logits(model, swapped), golden["logits"]) > TOLERANCE

    def test_averaged_probabilities_are_detected(self, loaded, monkeypatch) -> None:
        golden, model = loaded
        logits = TorchBackend.__call__

        def probabilities(backend, windows):
            return logits(backend, windows).softmax(dim=1)

        monkeypatch.setattr(TorchBackend, "__call__", probabilities)
        ours = np.log(self.logits(model, golden["image"]))
        margin = golden["logits"][1] - golden["logits"][0]
        assert deviation(ours[1] - ours[0], margin) > TOLERANCE

    def test_a_last_window_that_is_not_shifted_back_is_detected(self, loaded) -> None:
        golden, model = loaded
        image = golden["image"]
        height, width = image.shape[:2]
        crop, stride = model.spec.crop, model.spec.stride
        # Windows that hang over the border instead: the same grid on an image that holds them.
        hang = [-(-(side - crop) // stride) * stride + crop - side for side in (height, width)]
        assert min(hang) > 0
        padded = np.pad(image, ((0, hang[0]), (0, hang[1]), (0, 0)), mode="edge")
        ours = self.logits(model, padded)[:, :height, :width]
        assert deviation(ours, golden["logits"]) > TOLERANCE
