"""Models that can be loaded by name: the embedded one, mmsegmentation's 24, and others.

mmsegmentation 1.2.2 lists its models for retinal vessels in ``configs/unet/metafile.yaml``.
Windows and sizes come from its ``configs/_base_/datasets``. To add a model of any other origin,
add its `ModelSpec` to `_OTHERS`; docs/how-to/add-a-model.md goes through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from .errors import UnknownModelError, did_you_mean
from .spec import Head, ModelSpec, Source

_HOST = "https://download.openmmlab.com/mmsegmentation/v0.5/unet/"
_CONFIGS = "https://github.com/open-mmlab/mmsegmentation/blob/v1.2.2/configs/unet/"


class _TrainingSet(NamedTuple):
    """What mmsegmentation's models of one data set share."""

    name: str
    crop: int
    stride: int
    fit_size: tuple[int, int]
    fov_diameter: int
    terms: str


_DRIVE = _TrainingSet("drive", 64, 42, (584, 565), 538, "research and education, not commercial")
_STARE = _TrainingSet("stare", 128, 85, (605, 700), 650, "publicly offered, no licence stated")
_CHASE_DB1 = _TrainingSet("chase_db1", 128, 85, (960, 999), 918, "CC BY 4.0")
_HRF = _TrainingSet("hrf", 256, 170, (2336, 3504), 3263, "CC BY 4.0")


def _published(
    head: Head, loss: str, data: _TrainingSet, dice: float, mdice: float,
    stamp: str, original_digits: str = "",
) -> ModelSpec:  # fmt: skip
    """One row of the table below; `stamp` is DATE_TIME-DIGITS, with which the file's name ends.

    Names and addresses follow mmsegmentation's rules, which hold for these 24 models only. The
    original names of republished files have other digits and lack the head.
    """
    has_dice = loss == "ce+dice"
    dashed = data.name.replace("_", "-")
    size = f"{data.crop}x{data.crop}"
    folder = f"unet_s5-d16_{size}_40k_{data.name}"
    if has_dice:
        folder = f"unet_s5-d16_ce-1.0-dice-3.0_{size}_40k_{dashed}"
    sources = [_source(f"{head}_{folder}", stamp)]
    if original_digits:
        sources.append(_source(folder, stamp[:-8] + original_digits))
    parts = ["unet_s5-d16", head.replace("fcn", ""), "ce-dice" if has_dice else "", data.name]
    name = "_".join(filter(None, parts))
    prefix = "unet_s5" if name == "unet_s5-d16_deeplabv3_chase_db1" else "unet-s5"
    schedule = "4xb4-ce-1.0-dice-3.0-40k" if has_dice else "4xb4-40k"
    return ModelSpec(
        name=name,
        dataset=data.name,
        crop=data.crop,
        stride=data.stride,
        head=head,
        scale="fit",
        fit_size=data.fit_size,
        fov_diameter=data.fov_diameter,
        loss=loss,
        dice=dice,
        mdice=mdice,
        sources=tuple(sources),
        license="Apache-2.0",
        data_terms=data.terms,
        config=f"{_CONFIGS}{prefix}-d16_{head}_{schedule}_{dashed}-{size}.py",
    )


def _source(folder: str, stamp: str) -> Source:
    return Source(f"{_HOST}{folder}/{folder}_{stamp}.pth", stamp[-8:])


_MMSEGMENTATION = (
    _published("fcn", "ce", _DRIVE, 78.67, 88.38, "20201223_191051-5daf6d3b", "9cd163b8"),
    _published("fcn", "ce+dice", _DRIVE, 79.32, 88.71, "20211210_201820-785de5c2"),
    _published("pspnet", "ce", _DRIVE, 78.62, 88.35, "20201227_181818-aac73387"),
    _published("pspnet", "ce+dice", _DRIVE, 79.42, 88.76, "20211210_201821-22b3e3ba"),
    _published("deeplabv3", "ce", _DRIVE, 78.69, 88.38, "20201226_094047-0671ff20"),
    _published("deeplabv3", "ce+dice", _DRIVE, 79.56, 88.84, "20211210_201825-6bf0efd7"),
    _published("fcn", "ce", _STARE, 81.02, 89.78, "20201223_191051-7d77e78b", "e5439846"),
    _published("fcn", "ce+dice", _STARE, 82.70, 90.65, "20211210_201821-f75705a9"),
    _published("pspnet", "ce", _STARE, 81.22, 89.89, "20201227_181818-3c2923c4"),
    _published("pspnet", "ce+dice", _STARE, 82.84, 90.72, "20211210_201823-f1063ef7"),
    _published("deeplabv3", "ce", _STARE, 80.93, 89.73, "20201226_094047-93dcb93c"),
    _published("deeplabv3", "ce+dice", _STARE, 82.71, 90.65, "20211210_201825-21db614c"),
    _published("fcn", "ce", _CHASE_DB1, 80.24, 89.46, "20201223_191051-11543527", "8b16ca0b"),
    _published("fcn", "ce+dice", _CHASE_DB1, 80.40, 89.52, "20211210_201821-1c4eb7cf"),
    _published("pspnet", "ce", _CHASE_DB1, 80.36, 89.52, "20201227_181818-68d4e609"),
    _published("pspnet", "ce+dice", _CHASE_DB1, 80.28, 89.45, "20211210_201823-c0802c4d"),
    _published("deeplabv3", "ce", _CHASE_DB1, 80.47, 89.57, "20201226_094047-4c5aefa3"),
    _published("deeplabv3", "ce+dice", _CHASE_DB1, 80.37, 89.49, "20211210_201825-4ef29df5"),
    _published("fcn", "ce", _HRF, 79.45, 88.92, "20201223_173724-d89cf1ed", "d89cf1ed"),
    _published("fcn", "ce+dice", _HRF, 80.87, 89.64, "20211210_201821-c314da8a"),
    _published("pspnet", "ce", _HRF, 80.07, 89.24, "20201227_181818-fdb7e29b"),
    _published("pspnet", "ce+dice", _HRF, 80.96, 89.69, "20211210_201823-53d492fa"),
    _published("deeplabv3", "ce", _HRF, 80.21, 89.32, "20201226_094047-3a1fdf85"),
    _published("deeplabv3", "ce+dice", _HRF, 80.71, 89.56, "20211210_202032-59daf7a4"),
)

EMBEDDED = ModelSpec(
    name="unet_s5-c16_chase-hrf-fives",
    dataset="chase_db1+hrf+fives",
    crop=608,
    stride=560,
    width=16,
    scale="fov",
    fov_diameter=1000,
    fov_diameter_max=1500,
    fov_rgb_mean=(160.0, 75.0, 30.0),
    small_fov_bias=(900.0, 2.5),
    expected_dice=0.924,
    least_sharpness=0.49,
    loss="ce+dice",
    sources=(
        Source(
            "package:unet_s5-c16_chase-hrf-fives.pth",
            sha256="a79bfad7631bef86d36fb765c9a6e69e33cba46ccf3ec74932edc0c9e3374108",
        ),
    ),
    license="Apache-2.0",
    data_terms="CC BY 4.0",
)
"""The model in the package: the default of ``segment`` and of the command line."""

_OTHERS: tuple[ModelSpec, ...] = ()
"""Models from elsewhere, each with everything that its authors state."""

REGISTRY: Mapping[str, ModelSpec] = MappingProxyType(
    {spec.name: spec for spec in (EMBEDDED, *_MMSEGMENTATION, *_OTHERS)}
)
"""All models by name, the embedded one first."""


def list_models() -> list[ModelSpec]:
    """All models that :func:`vesselseg.load_model` knows by name, the embedded one first.

    Returns
    -------
    list of ModelSpec

    Examples
    --------
    >>> import vesselseg
    >>> for spec in vesselseg.list_models()[:3]:
    ...     print(spec.name, spec.dataset, spec.dice)
    unet_s5-c16_chase-hrf-fives chase_db1+hrf+fives None
    unet_s5-d16_drive drive 78.67
    unet_s5-d16_ce-dice_drive drive 79.32
    """
    return list(REGISTRY.values())


def find_spec(name: str) -> ModelSpec:
    """Look up a model by name; UnknownModelError, which suggests similar ones, if it is unknown."""
    if name not in REGISTRY:
        raise UnknownModelError(
            f"There is no model {name!r}.{did_you_mean(name, REGISTRY)} "
            f"`vesselseg models` or vesselseg.list_models() lists all {len(REGISTRY)}."
        )
    return REGISTRY[name]
