"""What is known of a weights file: the frozen records :class:`Checkpoint` and `Source`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from .errors import CheckpointError, OptionError

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
_HEADS = ("fcn", "pspnet", "deeplabv3")
_SCALES = ("fit", "native", "fov")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a file can be had, and what is known of its SHA-256.

    Parameters
    ----------
    url : str
        An address, or ``package:FILE`` for a file in the installed package's ``embedded/``.
    digits : str
        First hexadecimal digits of the SHA-256 as the file's name gives them: evidence, not
        proof, since the published names were not always made from the final file.
    sha256 : str
        The whole digest where it is known: binding.
    """

    url: str
    digits: str = ""
    sha256: str = ""

    @property
    def filename(self) -> str:
        """Last part of the address."""
        return re.split(r"[/:]", self.url)[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A weights file and everything needed to use it as it was trained.

    Parameters
    ----------
    name : str
        What ``load_model`` calls it.
    dataset : str
        The data it was trained on.
    crop, stride : int
        Side of the square windows and the distance between their starts, in pixels.
    head : {"fcn", "pspnet", "deeplabv3"}
    width, depth : int
        Channels of the first stage, and number of stages, of the U-Net.
    scale : {"fit", "native", "fov"} or float
        How images are brought to the network's scale when the caller does not say:
        fitted into `fit_size`, left alone, field of view brought to `fov_diameter` (or into the
        range from there to `fov_diameter_max`), or a factor.
    fit_size : (int, int) or None
        Height and width of the data set's images, in pixels.
    fov_diameter : float or None
        Diameter of the field of view at the network's scale, in pixels.
    fov_diameter_max : float or None
        Fields of view between `fov_diameter` and this keep their size, larger ones are reduced
        to it, in pixels; None: there is but one size, `fov_diameter`.
    fov_mean : (float, float, float) or None
        Means of R, G and B inside the field of view, in units of 0 to 255, that a gain for each
        channel brings a photograph to, whatever its camera; None: colours are left alone.
    mask_outside_fov : bool
        Whether pixels outside the field of view are set to background, probability 0.
    mean, std : (float, float, float)
        Normalisation of R, G and B, in units of 0 to 255.
    loss : str
        What it was trained with.
    dice, mdice : float or None
        Published scores in percent: Dice of the vessel class, pooled over all pixels of all
        test images, and its mean with that of the background.
    sources : tuple of Source
        Where the file can be had, in the order in which they are tried.
    license : str
        Licence of the weights.
    data_terms : str
        Terms of the data that they were trained on.
    config : str
        Address of the training configuration.

    Raises
    ------
    OptionError
        If a value is outside what is described here.
    """

    name: str
    dataset: str
    crop: int
    stride: int
    head: str = "fcn"
    width: int = 64
    depth: int = 5
    scale: str | float = "native"
    fit_size: tuple[int, int] | None = None
    fov_diameter: float | None = None
    fov_diameter_max: float | None = None
    fov_mean: tuple[float, float, float] | None = None
    mask_outside_fov: bool = False
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    loss: str = ""
    dice: float | None = None
    mdice: float | None = None
    sources: tuple[Source, ...] = ()
    license: str = ""
    data_terms: str = ""
    config: str = ""

    def __post_init__(self) -> None:
        def require(fine: bool, field: str, allowed: str) -> None:
            if not fine:
                value = getattr(self, field)
                raise OptionError(f"Checkpoint {field} is {value!r}; it has to be {allowed}.")

        for field in ("name", "dataset"):
            value = getattr(self, field)
            require(isinstance(value, str) and value != "", field, "a text that is not empty")
        require(_whole(self.depth, 2, 8), "depth", "a whole number from 2 to 8")
        require(_whole(self.width, 4, 1024) and self.width % 4 == 0, "width",
                "a multiple of 4 up to 1024")  # fmt: skip
        require(_whole(self.crop, 1, 1 << 16), "crop", "a whole number from 1 to 65536")
        require(_whole(self.stride, 1, self.crop), "stride", f"from 1 to the crop, {self.crop}")
        require(self.head in _HEADS, "head", f"one of {', '.join(_HEADS)}")
        require(self.scale in _SCALES or _positive(self.scale), "scale",
                f"one of {', '.join(_SCALES)}, or a positive factor")  # fmt: skip
        size = self.fit_size
        fits = isinstance(size, tuple) and len(size) == 2 and all(_whole(x, 1) for x in size)
        require(fits or (size is None and self.scale != "fit"), "fit_size",
                "(height, width) in pixels where scale is 'fit'")  # fmt: skip
        diameter = self.fov_diameter
        require(_positive(diameter) or (diameter is None and self.scale != "fov"),
                "fov_diameter", "a number of pixels where scale is 'fov'")  # fmt: skip
        most = self.fov_diameter_max
        fine = most is None or (diameter is not None and _positive(most) and most >= diameter)
        require(fine, "fov_diameter_max", f"at least fov_diameter, which is {diameter}")
        for field in ("mean", "std", "fov_mean"):
            value = getattr(self, field)
            fine = isinstance(value, tuple) and len(value) == 3
            fine = fine and all(isinstance(x, (int, float)) and math.isfinite(x) for x in value)
            fine = fine and (field == "mean" or min(value) > 0)
            require(
                fine or (field == "fov_mean" and value is None), field, "three numbers, R, G, B"
            )

    @property
    def fov_range(self) -> tuple[float, float] | None:
        """Least and largest diameter of the field of view at the network's scale."""
        if self.fov_diameter is None:
            return None
        return self.fov_diameter, self.fov_diameter_max or self.fov_diameter

    @property
    def filename(self) -> str:
        """Name of the file in a cache or mirror; that of the first source."""
        return self.sources[0].filename if self.sources else f"{self.name}.pth"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, without the sources, as a saved model carries them."""
        values = asdict(self)
        del values["sources"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Checkpoint:
        """The inverse of :meth:`to_dict`; raises CheckpointError for anything else."""
        known = {field.name for field in fields(cls)} - {"sources"}
        unknown = sorted(set(map(str, values)) - known)
        if unknown:
            raise CheckpointError(
                f"The file's record has entries that this version does not know: "
                f"{', '.join(unknown)}. It may come from a newer vesselseg: update."
            )
        try:
            plain: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
            }
            return cls(**plain)
        except (TypeError, OptionError) as error:
            raise CheckpointError(f"The file's record cannot be used: {error}") from error


def _whole(value: object, least: int, most: float = math.inf) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _positive(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) and value > 0
