"""Resampling that equals OpenCV's bit for bit."""

import numpy as np
import pytest
import torch

from vesselseg.preprocess import resize_like_opencv

RNG = np.random.default_rng(0)


class TestResizeLikeOpenCV:
    """Expected values come from OpenCV 5.0.0: ``cv2.resize(image, (w, h))`` of uint8."""

    ROW = np.array([[0, 255, 10, 200, 30]], dtype=np.uint8)

    @pytest.mark.parametrize("size", [(2, 3), (1, 8), (3, 2), (4, 13)])
    def test_resizing_is_close_to_exact_arithmetic(self, size):
        image = RNG.integers(0, 256, (9, 7, 3), dtype=np.uint8)
        ours = resize_like_opencv(image, size)
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].double()
        exact = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear")
        difference = ours.astype(float) - exact[0].permute(1, 2, 0).numpy()
        assert np.abs(difference).max() < 1

    def test_values_are_rounded_like_opencv(self):
        row = np.repeat(self.ROW[..., None], 3, axis=2)
        assert resize_like_opencv(row, (1, 8))[0, :, 0].tolist() == [
            0,
            112,
            240,
            87,
            69,
            188,
            104,
            30,
        ]
        # Along columns the two products are rounded on their own.
        column = resize_like_opencv(row.transpose(1, 0, 2), (8, 1))[:, 0, 0]
        assert column.tolist() == [0, 112, 240, 86, 69, 188, 104, 30]

    def test_resizing_agrees_with_opencv(self):
        cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed")
        for _ in range(100):
            height, width, tall, wide = (int(n) for n in RNG.integers(1, 120, 4))
            image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
            expected = cv2.resize(image, (wide, tall), interpolation=cv2.INTER_LINEAR)
            assert np.array_equal(resize_like_opencv(image, (tall, wide)), expected)
