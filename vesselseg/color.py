"""Colour profiles: RGB as a file's own profile defines it -> sRGB, which models are trained on."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from PIL import ImageCms

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # colour space of a profile -> mode of Pillow
_NEAR = 3  # of 255: a profile that moves no colour further is sRGB under another name
_STEPS = 6  # of each channel, in the colours that are tried


def convert_to_srgb(image: Image.Image, profile: bytes) -> tuple[Image.Image, str]:
    """Convert an RGB, grey or CMYK image from its ICC profile to sRGB.

    Returns
    -------
    PIL.Image.Image
        The same object if the profile is sRGB, and if it cannot be used.
    str
        Why it cannot be used, or "".
    """
    try:
        from PIL import ImageCms

        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if _MODES.get(space) != image.mode:
            return image, f"it is for {space or 'unknown'} colours"
        target = ImageCms.createProfile("sRGB")
        transform = ImageCms.buildTransform(source, target, image.mode, "RGB")
        if image.mode != "CMYK" and _changes_little(transform, image.mode):
            return image, ""
        return transform.apply(image), ""
    except Exception as error:  # a profile from outside can make the library raise anything
        return image, str(error).partition("\n")[0] or type(error).__name__


def _changes_little(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform leaves colours from all of RGB, or grey, nearly as they are."""
    steps = np.linspace(0, 255, _STEPS).astype(np.uint8)
    colors: NDArray[Any] = np.stack(np.meshgrid(steps, steps, steps), axis=-1)
    colors = colors.reshape(_STEPS, -1, 3)
    given = Image.fromarray(colors if mode == "RGB" else colors[..., 0])
    expected = np.asarray(given.convert("RGB")).astype(int)
    return bool(np.abs(np.asarray(transform.apply(given)) - expected).max() <= _NEAR)
