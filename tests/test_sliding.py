"""Sliding with networks whose right answer is plain to see."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselseg.sliding import slide


def pointwise(windows):
    """A network without context: each logit is its pixel plus one."""
    return windows.float() + 1


def one(image, net, **options):
    (logits,) = slide([image], net, **options)
    return logits


sizes = st.integers(1, 40)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sizes, sizes, st.integers(1, 24), st.data(), st.integers(1, 9), st.sampled_from([1, 4, 16]))
def test_stitching_is_the_identity(height, width, crop, data, batch_size, multiple):
    stride = data.draw(st.integers(1, crop))
    generator = torch.Generator().manual_seed(height * 100 + width)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    logits = one(
        image, pointwise, crop=crop, stride=stride, batch_size=batch_size, multiple=multiple
    )
    assert logits.dtype == torch.float32
    assert torch.allclose(logits, image.float() + 1, rtol=1e-6)


def test_overlaps_are_averaged_uniformly():
    counter = iter(range(100))

    def numbered(windows):  # each window answers with its number
        numbers = torch.tensor([float(next(counter)) for _ in windows])
        return numbers[:, None, None, None].expand(-1, 1, *windows.shape[2:])

    logits = one(torch.zeros(1, 4, 8), numbered, crop=4, stride=2, batch_size=3)
    assert logits[0, 0].tolist() == [0, 0, 0.5, 0.5, 1.5, 1.5, 2, 2]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_every_batch_has_the_same_shape(batch_size):
    shapes = set()

    def net(windows):
        shapes.add(tuple(windows.shape))
        return windows.float()

    one(torch.zeros(3, 50, 70), net, crop=16, stride=11, batch_size=batch_size, multiple=16)
    assert shapes == {(batch_size, 3, 16, 16)}


def test_short_sides_repeat_their_edge_up_to_the_multiple():
    seen = []

    def net(windows):
        seen.append(windows.clone())
        return windows.float()

    image = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3)
    logits = one(image, net, crop=8, stride=8, batch_size=1, multiple=4)
    assert seen[0][0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert torch.equal(logits, image.float())


def test_images_share_batches_and_come_back_in_order():
    calls = []

    def net(windows):
        calls.append(len(windows))
        return windows.float()

    images = [torch.full((1, 8, 8), i, dtype=torch.uint8) for i in range(7)]
    results = list(slide(images, net, crop=8, stride=8, batch_size=4))
    assert [float(r.mean()) for r in results] == list(range(7))
    assert calls == [4, 4]  # seven windows: the second batch is filled up


def test_images_of_other_window_sizes_start_another_batch():
    images = [torch.full((1, h, 8), h, dtype=torch.uint8) for h in (8, 4, 4, 8)]
    results = list(slide(images, lambda w: w.float(), crop=8, stride=8, batch_size=4))
    assert [r.shape[1] for r in results] == [8, 4, 4, 8]
    assert [float(r.mean()) for r in results] == [8, 4, 4, 8]


def test_images_are_read_only_as_windows_are_needed():
    read = []

    def images():
        for i in range(5):
            read.append(i)
            yield torch.zeros(1, 8, 8, dtype=torch.uint8)

    results = slide(images(), lambda w: w.float(), crop=8, stride=8, batch_size=2)
    next(results)
    assert read == [0, 1]


def test_what_came_before_a_failing_image_is_not_lost():
    def images():
        yield torch.zeros(1, 8, 8, dtype=torch.uint8)
        raise ValueError("the second cannot be read")

    results = slide(images(), lambda w: w.float(), crop=8, stride=8, batch_size=4)
    assert next(results).shape == (1, 8, 8)
    with pytest.raises(ValueError, match="the second"):
        next(results)


def test_images_are_not_changed():
    image = torch.full((3, 20, 20), 7, dtype=torch.uint8)
    one(image, lambda w: w.fill_(9).float(), crop=8, stride=5, batch_size=2)
    assert (image == 7).all()
