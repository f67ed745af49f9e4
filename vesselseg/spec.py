"""What is known of one set of weights: the frozen dataclasses `ModelSpec` and `Source`."""

from __future__ import annotations

import hashlib
import json
import math
import numbers
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, TypeGuard, get_args

from .errors import CheckpointError, OptionError

Head: TypeAlias = Literal["fcn", "pspnet", "deeplabv3"]
"""Head of the network."""

ScaleRule: TypeAlias = Literal["fit", "native", "fov"]
Scale: TypeAlias = ScaleRule | float
"""A rule for bringing a photograph to the network's scale, or a factor."""

HEADS: tuple[Head, ...] = get_args(Head)
SCALES: tuple[ScaleRule, ...] = get_args(ScaleRule)
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)

_DESCRIPTIVE = frozenset(
    {
        "name", "dataset", "loss", "dice", "mdice", "sources", "license", "data_terms", "config",
        "unverified",
    }
)  # fmt: skip
"""Fields that do not decide the result."""

_DROPPED = {"mask_outside_fov": False}
"""Fields that a stored spec may still have -> the only value that was ever stored."""


@dataclass(frozen=True, slots=True)
class Source:
    """One place to get a weights file from, and what is known of its SHA-256.

    Parameters
    ----------
    url : str
        An address, with a query or without, or ``package:FILE`` for a file in the package's
        ``embedded/`` folder.
    digits : str
        First hexadecimal digits of the SHA-256, taken from the published file name. They are
        evidence, not proof: some published names were made from an earlier version of the file.
    sha256 : str
        The full digest, if known. A file with another digest is rejected.

    Examples
    --------
    >>> import vesselseg
    >>> source = vesselseg.Source("https://weights.example.org/net-9cd163b8.pth?download=1")
    >>> source.filename
    'net-9cd163b8.pth'
    """

    url: str
    digits: str = ""
    sha256: str = ""

    @property
    def filename(self) -> str:
        """Last part of the address, without its query and fragment."""
        return re.split(r"[/:]", re.split(r"[?#]", self.url)[0])[-1]

    def matches(self, sha256: str) -> bool:
        """Whether a digest agrees with the full one or, as weaker evidence, with the digits."""
        return sha256.startswith((self.sha256 or self.digits).lower())


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A set of weights, and everything needed to use it as it was trained.

    Parameters
    ----------
    name : str
        The name that ``load_model`` takes.
    dataset : str
        The data set that the model was trained on.
    crop : int
        Side of the square windows, in pixels.
    stride : int
        Distance between the starts of two windows, in pixels. With the scale "fov", windows
        shrink to what covers the field of view. They still overlap by ``crop - stride``.
    head : {"fcn", "pspnet", "deeplabv3"}
        Head of the network.
    width : int
        Channels of the first stage of the U-Net, a multiple of 4.
    depth : int
        Stages of the U-Net, from 2 to 8.
    scale : {"fit", "native", "fov"} or float
        Default rule for bringing a photograph to the network's scale. "fit" fits it into
        `fit_size`. "native" leaves it alone. "fov" brings its field of view to `fov_diameter`, or
        into the range from `fov_diameter` to `fov_diameter_max`. A number is a factor.
    fit_size : (int, int) or None
        Height and width of the data set's images, in pixels.
    fov_diameter : float or None
        Diameter of the field of view at the network's scale, in pixels.
    fov_diameter_max : float or None
        Largest diameter of the field of view at the network's scale, in pixels. Between
        `fov_diameter` and this, the scale "fov" leaves a photograph alone; a larger one is
        reduced to it. None means `fov_diameter`.
    fov_rgb_mean : (float, float, float) or None
        Target means of R, G and B inside the field of view, 0 to 255. Each channel is multiplied
        by a gain that brings its mean there, so that cameras look alike. None leaves colours
        alone.
    small_fov_bias : (float, float) or None
        (D, b): photographs whose field of view is narrower than D pixels get a bias on the vessel
        logit. It grows with the logarithm of the diameter, from 0 at D to b at D / 2, and stays b
        below. Observers draw no vessel thinner than a pixel, so on small photographs they draw
        vessels wider than a network that learned from large ones.
    expected_dice : float or None
        Mean Dice that the model expects of its own masks on photographs like those trained on, in
        (0, 1]. `Segmentation.familiarity` compares a photograph with it.
    least_sharpness : float or None
        Least sharpness, at the network's scale, of a familiar photograph.
    mean, std : (float, float, float)
        Normalisation of R, G and B, in units of 0 to 255.
    loss : str
        Training loss.
    dice, mdice : float or None
        Published scores in percent, pooled over all pixels of all test images. `dice` is that of
        the vessel class, `mdice` the mean of both classes.
    sources : tuple of Source
        Where to get the file, in the order in which the sources are tried.
    license : str
        Licence of the weights.
    data_terms : str
        Terms of the training data.
    config : str
        Address of the training configuration, if there is one.
    unverified : bool
        Whether the weights were saved from a file whose SHA-256 was not the published one.

    Raises
    ------
    OptionError
        If a value is outside what is described here.

    Notes
    -----
    Saved models and exported ONNX files hold a model spec, so its fields are part of the file
    format: docs/reference/weights-files.md says how they may change.

    Examples
    --------
    Change the overlap of a model's windows:

    >>> import dataclasses, vesselseg
    >>> spec = vesselseg.list_models()[0]
    >>> denser = dataclasses.replace(spec, stride=spec.crop // 2)
    >>> vesselseg.load_model(denser).spec.stride
    304
    """

    name: str
    dataset: str
    crop: int
    stride: int
    head: Head = "fcn"
    width: int = 64
    depth: int = 5
    scale: Scale = "native"
    fit_size: tuple[int, int] | None = None
    fov_diameter: float | None = None
    fov_diameter_max: float | None = None
    fov_rgb_mean: tuple[float, float, float] | None = None
    small_fov_bias: tuple[float, float] | None = None
    expected_dice: float | None = None
    least_sharpness: float | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    loss: str = ""
    dice: float | None = None
    mdice: float | None = None
    sources: tuple[Source, ...] = ()
    license: str = ""
    data_terms: str = ""
    config: str = ""
    unverified: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, plain(getattr(self, field.name)))
        for name, is_valid, allowed in _checks(self):
            if not is_valid:
                value = getattr(self, name)
                raise OptionError(f"ModelSpec {name} is {value!r}; it must be {allowed}.")

    @property
    def size_divisor(self) -> int:
        """Number by which the sides of a window must be divisible: 2 ** (depth - 1)."""
        return int(2 ** (self.depth - 1))

    @property
    def fov_range(self) -> tuple[float, float] | None:
        """Smallest and largest diameter of the field of view at the network's scale."""
        if self.fov_diameter is None:
            return None
        return self.fov_diameter, self.fov_diameter_max or self.fov_diameter

    @property
    def filename(self) -> str:
        """Name of the file in a cache or mirror: that of the first source."""
        return self.sources[0].filename if self.sources else f"{self.name}.pth"

    def matches(self, sha256: str) -> bool:
        """Whether the digest of a weights file agrees with a source, as far as the sources say."""
        if self.unverified:
            return False
        return not self.sources or any(source.matches(sha256) for source in self.sources)

    @property
    def digest(self) -> str:
        """SHA-256 of the fields that decide the result, as 64 hexadecimal digits.

        Two model specs with the same digest give the same result with the same weights. Name, data
        set, loss, scores, sources, licences, configuration and `unverified` do not count.
        """
        values = {k: v for k, v in self.to_dict().items() if k not in _DESCRIPTIVE}
        canonical = json.loads(json.dumps(values), parse_int=float)  # 1000 is 1000.0
        return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values without the sources, as they are stored in a saved model."""
        values = asdict(self)
        for field in fields(self):
            is_later = "since" in field.metadata
            if field.name == "sources" or (is_later and values[field.name] == field.default):
                del values[field.name]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Read what :meth:`to_dict` wrote, in this version of vesselseg or an earlier one.

        A missing field has its default, and a dropped one is ignored. Raises CheckpointError if a
        value is not valid, or a field is unknown: it comes from a later version.
        """
        values = {str(name): value for name, value in values.items()}
        for name, only in _DROPPED.items():
            value = values.get(name)
            if type(value) is type(only) and value == only:  # a damaged file may have a tensor here
                values.pop(name, None)
        known = {field.name for field in fields(cls)} - {"sources"}
        unknown = sorted(set(values) - known)
        if unknown:
            raise CheckpointError(
                f"The file's model spec has fields that this version does not know: "
                f"{', '.join(unknown)}. It may come from a newer vesselseg; update."
            )
        try:
            return cls(**values)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise CheckpointError(f"The file's model spec is not valid: {error}") from error


def _checks(spec: ModelSpec) -> Iterator[tuple[str, bool, str]]:
    """Each field, whether its value is valid, and what is allowed; later ones rely on earlier."""
    for field in ("name", "dataset"):
        value = getattr(spec, field)
        yield field, isinstance(value, str) and value != "", "a non-empty text"
    yield "depth", is_integer(spec.depth, 2, 8), "an integer from 2 to 8"
    is_width = is_integer(spec.width, 4, 1024) and spec.width % 4 == 0
    yield "width", is_width, "a multiple of 4 up to 1024"
    yield "crop", is_integer(spec.crop, 1, 65536), "an integer from 1 to 65536"
    yield "stride", is_integer(spec.stride, 1, spec.crop), f"from 1 to crop, {spec.crop}"
    yield "head", spec.head in HEADS, f"one of {', '.join(HEADS)}"
    is_scale = spec.scale in SCALES or is_factor(spec.scale)
    yield "scale", is_scale, f"one of {', '.join(SCALES)}, or a positive factor"
    if spec.fit_size is not None or spec.scale == "fit":
        is_size = is_tuple(spec.fit_size, 2) and all(is_integer(x, 1, 65536) for x in spec.fit_size)
        yield "fit_size", is_size, "(height, width) in pixels, each from 1 to 65536"
    if spec.fov_diameter is not None or spec.scale == "fov":
        yield "fov_diameter", is_factor(spec.fov_diameter), "a positive number of pixels"
    if spec.fov_diameter_max is not None:
        least = math.inf if spec.fov_diameter is None else spec.fov_diameter
        is_largest = is_factor(spec.fov_diameter_max) and spec.fov_diameter_max >= least
        yield "fov_diameter_max", is_largest, f"at least fov_diameter, {spec.fov_diameter}"
    yield "mean", is_tuple(spec.mean, 3), "three finite numbers, R, G, B"
    yield "std", is_tuple(spec.std, 3) and min(spec.std) > 0, "three positive numbers, R, G, B"
    mean, bias, share = spec.fov_rgb_mean, spec.small_fov_bias, spec.expected_dice
    is_mean = mean is None or (is_tuple(mean, 3) and min(mean) > 0)
    yield "fov_rgb_mean", is_mean, "three positive numbers, R, G, B"
    is_bias = bias is None or (is_tuple(bias, 2) and bias[0] > 0)
    yield "small_fov_bias", is_bias, "(diameter in pixels, bias), two finite numbers"
    is_share = share is None or (is_factor(share) and share <= 1)
    yield "expected_dice", is_share, "above 0 and at most 1, or None"
    for field in ("least_sharpness", "dice", "mdice"):
        value = getattr(spec, field)
        yield field, value is None or is_factor(value), "a positive number, or None"
    yield "unverified", isinstance(spec.unverified, bool), "True or False"
    for field in ("loss", "license", "data_terms", "config"):
        yield field, isinstance(getattr(spec, field), str), "a text"
    sources = spec.sources
    are_sources = isinstance(sources, tuple) and all(isinstance(x, Source) for x in sources)
    yield "sources", are_sources, "a tuple of Source"


def plain(value: Any) -> Any:
    """NumPy's numbers as Python's, and lists as tuples: what can be stored and hashed."""
    if isinstance(value, (list, tuple)):
        return tuple(map(plain, value))
    is_numpy = isinstance(value, numbers.Number) and hasattr(value, "item")
    return value.item() if is_numpy else value


def check_integer(
    name: str,
    value: object,
    least: int = 1,
    most: int = 2**63,
    allowed: str = "a positive integer",
) -> int:
    """The argument `name` as an int; OptionError unless it is one in a range."""
    number = plain(value)
    if not is_integer(number, least, most):
        raise OptionError(f"{name} is {number!r}; it must be {allowed}.")
    return int(number)


def is_integer(value: object, least: int, most: int) -> bool:
    """Whether a value is an int, not a bool, in a range."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_factor(value: object) -> TypeGuard[float]:
    """Whether a value is a positive number that a float can hold and that images survive."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return 0 < value <= 1e9


def is_tuple(value: object, length: int) -> TypeGuard[tuple[float, ...]]:
    """Whether a value is a tuple of so many finite numbers."""
    if not isinstance(value, tuple) or len(value) != length:
        return False
    return all(isinstance(x, (int, float)) and -1e9 <= x <= 1e9 for x in value)
