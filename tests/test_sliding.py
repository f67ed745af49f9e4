"""Window geometry, and stitching with networks whose right answer is easy to see."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselseg import OptionError, ResourceError
from vesselseg.registry import find_spec
from vesselseg.sliding import (
    Placement,
    Window,
    WindowQueue,
    restore,
    round_up,
    shrink,
    slide,
    starts,
    windows,
)


def pointwise(windows):
    """A network without context: each logit is its pixel plus one."""
    return windows.float() + 1


sizes = st.integers(1, 40)


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    sizes, sizes, st.integers(1, 24), st.data(), st.integers(1, 9), st.sampled_from([1, 4, 16]),
    st.booleans(),
)  # fmt: skip
def test_stitching_is_the_identity(
    height, width, crop, data, batch_size, size_divisor, shrink_windows
):
    stride = data.draw(st.integers(1, crop))
    generator = torch.Generator().manual_seed(height * 100 + width)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    logits = slide(
        image, pointwise, crop=crop, stride=stride, batch_size=batch_size,
        size_divisor=size_divisor, shrink_windows=shrink_windows,
    )  # fmt: skip
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, image.float() + 1, rtol=1e-6)


def test_overlaps_are_averaged_uniformly():
    counter = iter(range(100))

    def numbered(windows):  # each window answers with its number
        numbers = torch.tensor([float(next(counter)) for _ in windows])
        return numbers[:, None, None, None].expand(-1, 1, *windows.shape[2:])

    logits = slide(torch.zeros(1, 4, 8), numbered, crop=4, stride=2, batch_size=3)
    assert logits[0, 0].tolist() == [0, 0, 0.5, 0.5, 1.5, 1.5, 2, 2]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_every_batch_has_the_same_shape(batch_size):
    shapes = set()

    def net(windows):
        shapes.add(tuple(windows.shape))
        return windows.float()

    slide(torch.zeros(3, 50, 70), net, crop=16, stride=11, batch_size=batch_size, size_divisor=16)
    assert shapes == {(batch_size, 3, 16, 16)}


def test_short_sides_repeat_their_edge_up_to_the_size_divisor():
    seen = []

    def net(windows):
        seen.append(windows.clone())
        return windows.float()

    image = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    logits = slide(image, net, crop=8, stride=8, batch_size=1, size_divisor=4)
    assert seen[0][0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert torch.equal(logits, image.float())


class TestWindowsOfSeveralImages:
    def averages(self, queue, images):
        """The mean logit of each image, of windows that wait in one queue."""
        stitchers = [queue.add(image) for image in images]
        queue.flush()
        return [float(stitcher.average().mean()) for stitcher in stitchers]

    def test_share_batches(self):
        calls = []

        def net(windows):
            calls.append(len(windows))
            return windows.float()

        images = [torch.full((1, 8, 8), i, dtype=torch.uint8) for i in range(7)]
        queue = WindowQueue(net, crop=8, stride=8, batch_size=4)
        assert self.averages(queue, images) == list(range(7))
        assert calls == [4, 4]  # seven windows: the second batch is filled up

    def test_of_another_size_start_another_batch(self):
        images = [torch.full((1, h, 8), h, dtype=torch.uint8) for h in (8, 4, 4, 8)]
        queue = WindowQueue(lambda w: w.float(), crop=8, stride=8, batch_size=4)
        assert self.averages(queue, images) == [8, 4, 4, 8]

    def test_are_computed_as_soon_as_they_fill_a_batch(self):
        queue = WindowQueue(lambda w: w.float(), crop=8, stride=8, batch_size=2)
        first, second = (queue.add(torch.zeros(1, 8, 8)) for _ in range(2))
        assert first.is_finished
        assert second.is_finished
        third = queue.add(torch.zeros(1, 8, 8))
        assert not third.is_finished
        queue.flush()
        assert third.is_finished

    @pytest.mark.parametrize("batch_size", [1, 2, 3, 16])
    def test_fail_alone(self, batch_size):
        def net(windows):
            if (windows == 2).any():
                raise MemoryError("too large")
            return windows.float()

        queue = WindowQueue(net, crop=4, stride=4, batch_size=batch_size)
        stitchers = [queue.add(torch.full((1, 8, 4 * i), i)) for i in (1, 2, 3, 2, 1)]
        queue.flush()
        for number, stitcher in zip((1, 2, 3, 2, 1), stitchers, strict=True):
            assert stitcher.is_finished
            if number == 2:
                with pytest.raises(MemoryError, match="too large"):
                    stitcher.average()
            else:
                assert (stitcher.average() == number).all()


def test_an_image_of_too_many_windows_is_rejected():
    queue = WindowQueue(lambda w: w.float(), crop=8, stride=1, batch_size=2)
    with pytest.raises(OptionError, match="104,976 windows of 8 pixels with a stride of 1"):
        queue.add(torch.zeros(1, 331, 331))


class TestRestore:
    def test_resizes_bilinearly(self):
        logits = torch.tensor([[[0.0, 4.0]]])
        everything = Window(0, 1, 0, 2)
        assert restore(logits, Placement(everything, (1, 2), (1, 4))).tolist() == [[[0, 1, 3, 4]]]
        assert restore(logits, Placement(everything, (1, 2), (1, 2))) is logits

    def test_has_no_vessels_outside_the_region(self):
        placement = Placement(Window(50, 170, 110, 230), (200, 400), (200, 400))
        whole = restore(torch.ones(2, 120, 120), placement)
        assert (whole[:, 50:170, 110:230] == 1).all()
        vessel = whole.softmax(dim=0)[1]
        assert vessel.sum() == pytest.approx(0.5 * 120 * 120)
        assert vessel[49].max() == vessel[:, 230].max() == 0
        assert (whole.diff(dim=0).sigmoid()[0] == vessel).all()

    def test_adds_the_bias_to_the_vessel_logit(self):
        logits = torch.zeros(2, 3, 3)
        placement = Placement(Window(0, 3, 0, 3), (3, 3), (6, 6), vessel_bias=1.5)
        background, vessel = restore(logits, placement)
        assert (background == 0).all()
        assert (vessel == 1.5).all()


@pytest.mark.parametrize("batch_size", [2**40, 2**62], ids=["no such memory", "no such size"])
def test_a_batch_that_does_not_fit_into_memory_is_a_resource_error(batch_size):
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    with pytest.raises(ResourceError, match="Choose a smaller batch size"):
        slide(image, None, crop=32, stride=16, batch_size=batch_size)


def test_images_are_not_changed():
    image = torch.full((3, 20, 20), 7, dtype=torch.uint8)
    slide(image, lambda w: w.fill_(9).float(), crop=8, stride=5, batch_size=2)
    assert (image == 7).all()


# Windows


@pytest.mark.parametrize(
    ("length", "crop", "stride", "expected"),
    [
        (64, 64, 42, [0]),  # exactly one window
        (40, 64, 42, [0]),  # shorter than the crop: one window of that length
        (65, 64, 42, [0, 1]),  # one pixel more: the second is shifted back
        (106, 64, 42, [0, 42]),
        (131, 64, 42, [0, 42, 67]),
        (1, 64, 42, [0]),
        (10, 4, 4, [0, 4, 6]),
    ],
)
def test_starts_end_at_the_border(length, crop, stride, expected):
    assert starts(length, crop, stride) == expected


def test_windows_go_row_by_row_and_have_one_size():
    grid = windows(10, 7, crop=4, stride=3)
    assert [(w.top, w.left) for w in grid] == [(t, x) for t in (0, 3, 6) for x in (0, 3)]
    assert {(w.bottom - w.top, w.right - w.left) for w in grid} == {(4, 4)}


def test_short_sides_shorten_the_windows():
    assert windows(3, 9, crop=4, stride=4) == [(0, 3, 0, 4), (0, 3, 4, 8), (0, 3, 5, 9)]


@pytest.mark.parametrize(
    ("name", "count"), [("drive", 182), ("stare", 56), ("chase_db1", 132), ("hrf", 294)]
)
def test_grids_of_published_models_have_the_published_windows(name, count):
    spec = find_spec(f"unet_s5-d16_{name}")
    assert len(windows(*spec.fit_size, spec.crop, spec.stride)) == count


def mmsegmentation_starts(length, crop, stride):
    """The grid as mmsegmentation writes it down: a count, then a shift of what hangs over."""
    count = max(length - crop + stride - 1, 0) // stride + 1
    ends = [min(i * stride + crop, length) for i in range(count)]
    return [max(end - crop, 0) for end in ends]


def test_equal_to_mmsegmentation_for_every_stride_up_to_the_crop():
    for crop in (1, 5, 16, 64):
        for stride in range(1, crop + 1):
            for length in range(1, 3 * crop + 2):
                assert starts(length, crop, stride) == mmsegmentation_starts(length, crop, stride)


def test_every_pixel_is_covered():
    rng = np.random.default_rng(0)
    for _ in range(200):
        height, width, crop = (int(x) for x in rng.integers(1, 60, 3))
        stride = int(rng.integers(1, crop + 1))
        covered = np.zeros((height, width), dtype=bool)
        for window in windows(height, width, crop, stride):
            covered[window.top : window.bottom, window.left : window.right] = True
        assert covered.all()


def test_shrunk_windows_just_cover_the_image():
    # Two of 64 with an overlap of 8 would cover 120 pixels, and three 176.
    assert windows(100, 130, crop=64, stride=56, shrink_to=2) == [
        (top, top + 54, left, left + 50) for top in (0, 46) for left in (0, 42, 80)
    ]
    assert windows(40, 64, crop=64, stride=56, shrink_to=2) == [(0, 40, 0, 64)]


@pytest.mark.parametrize("divisor", [1, 4, 16])
def test_shrunk_windows_are_no_more_and_overlap_no_less(divisor):
    for crop in (16, 40, 64):
        for stride in range(1, crop + 1):
            for length in range(1, 4 * crop):
                shrunk, step = shrink(length, crop, stride, divisor)
                assert shrunk <= crop
                assert shrunk % divisor == 0 or shrunk == crop
                assert shrunk - step == crop - stride
                assert len(starts(length, shrunk, step)) <= len(starts(length, crop, stride))


def test_lengths_are_rounded_up_to_multiples():
    assert [round_up(n, 16) for n in (1, 15, 16, 17, 32)] == [16, 16, 16, 32, 32]
