"""Colour profiles."""

from __future__ import annotations

from PIL import ImageCms

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def swapped_profile() -> bytes:
    """sRGB with the primaries of red and green exchanged, which every conversion shows."""
    profile = bytearray(SRGB)
    count = int.from_bytes(profile[128:132], "big")
    for start in range(132, 132 + 12 * count, 12):
        names = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
        name = bytes(profile[start : start + 4])
        profile[start : start + 4] = names.get(name, name)
    return bytes(profile)
