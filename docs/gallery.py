"""Make the gallery: ``python docs/gallery.py`` from the top folder of the repository.

It segments the example photograph as other cameras and mishaps would have it, and writes
docs/gallery.md and docs/images/gallery/. With the folders of open data sets, it makes the same page
of their photographs, in a folder of your choice; those pictures are not part of the repository::

    python docs/gallery.py --chase-db1 CHASE_DB1 --hrf HRF --out gallery
"""

from __future__ import annotations

import argparse
import io
import logging
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

import vesselseg
from vesselseg.evaluation.datasets import read_dataset, read_label, read_pairs
from vesselseg.metrics import confusion, dice

DOCS = Path(__file__).parent
EXAMPLE = DOCS.parent / "examples" / "fundus.jpg"
PANEL = 440  # pixels of a side of each of the four panels
CYAN = (0, 220, 255)
DATASETS = ("drive", "stare", "chase_db1", "hrf")
OTHERS = ("fives", "avrdb", "idrid")

Photograph = NDArray[np.uint8]


class Variant(NamedTuple):
    """The example photograph, changed."""

    title: str
    make: Callable[[Image.Image], Image.Image | NDArray[np.uint16]]
    text: str
    moves: bool = False
    """Whether `make` moves the vessels, and the mask that they are compared with must follow."""


def noise(image: Image.Image, deviation: float, light: float = 1.0) -> Image.Image:
    """Add noise of a fixed seed, in grey levels, after reducing the light."""
    values = np.asarray(image, np.float64) * light
    values += np.random.default_rng(0).normal(0, deviation, values.shape)
    return Image.fromarray(values.clip(0, 255).round().astype(np.uint8))


def blur(image: Image.Image, share: float) -> Image.Image:
    """Blur with a deviation that is a share of the side."""
    return image.filter(ImageFilter.GaussianBlur(share * image.width))


def red_free(image: Image.Image) -> Image.Image:
    """The green channel alone."""
    return Image.merge("RGB", [image.getchannel("G")] * 3)


def tinted(image: Image.Image) -> Image.Image:
    """Less red and much less blue."""
    values = np.asarray(image, np.float64) * (0.75, 0.95, 0.55)
    return Image.fromarray(values.round().astype(np.uint8))


def twelve_bits(image: Image.Image) -> NDArray[np.uint16]:
    """Values from 0 to 4080."""
    return np.asarray(image, np.uint16) * 16


def off_centre(image: Image.Image) -> Image.Image:
    """In a wider frame, far from its middle."""
    frame = Image.new("RGB", (int(1.6 * image.width), int(1.15 * image.height)))
    frame.paste(image, (int(0.55 * image.width), int(0.03 * image.height)))
    return frame


def cut(image: Image.Image) -> Image.Image:
    """Without the top and the bottom."""
    height = image.height
    return image.crop((0, int(0.14 * height), image.width, int(0.86 * height)))


def compressed(image: Image.Image) -> Image.Image:
    """As JPEG of the lowest quality that is in use."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=5)
    return Image.open(stream).convert("RGB")


def lesions(image: Image.Image) -> Image.Image:
    """Draw haemorrhages, exudates, and the reflections of a young retina."""
    chance, side = np.random.default_rng(1), image.width
    drawn = image.copy()
    draw = ImageDraw.Draw(drawn)
    for colour, count, size in (((110, 20, 15), 25, 0.018), ((250, 225, 150), 45, 0.009)):
        for x, y in chance.normal(0.55, 0.16, (count, 2)) * side:
            radius = size * side * chance.uniform(0.3, 1, 2)
            draw.ellipse((x - radius[0], y - radius[1], x + radius[0], y + radius[1]), colour)
    for radius in (0.13, 0.19):  # around the fovea
        box = [side * (centre + sign * radius) for sign in (-1, 1) for centre in (0.5, 0.5)]
        draw.arc(box, 200, 330, (255, 215, 190), int(0.008 * side))
    return Image.blend(drawn, blur(drawn, 0.002), 0.7)


def two_eyes(image: Image.Image) -> Image.Image:
    """The photograph and its mirror image, side by side."""
    frame = Image.new("RGB", (2 * image.width, image.height))
    frame.paste(image, (0, 0))
    frame.paste(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (image.width, 0))
    return frame


def ultra_wide(image: Image.Image) -> Image.Image:
    """An ellipse of retina whose middle is the photograph, in the colours of two lasers."""
    width, height = 2 * image.width, int(1.6 * image.height)
    frame = Image.new("RGB", (width, height))
    ImageDraw.Draw(frame).ellipse((0, 0, width, height), (120, 95, 50))
    disc = Image.new("L", image.size)
    edge = int(0.03 * image.width)
    ImageDraw.Draw(disc).ellipse((edge, edge, image.width - edge, image.height - edge), 255)
    place = (width - image.width) // 2, (height - image.height) // 2
    frame.paste(image, place, disc.filter(ImageFilter.GaussianBlur(edge / 2)))
    red, green, _ = frame.split()
    return Image.merge("RGB", (red, green, Image.new("L", frame.size)))


INTRODUCTION = """\
# Gallery

<!-- Written by docs/gallery.py. -->

The example photograph as other cameras and mishaps would have it, segmented by the embedded model.
Each picture shows the photograph, the vessels on it, the mask, and their outline on a part of the
photograph at its own size. Dice, in percent, compares the mask with that of the unchanged
photograph, not with an observer's label. `python docs/gallery.py` makes this page, and can make one
of the open data sets.
"""
FAILURES = """\
## Where it fails

Look at the overlay before you use a mask. Familiarity and the warnings find many of these cases,
but not all.
"""

WORKS = [
    Variant("As it is", lambda image: image, "1411 x 1411 pixels."),
    Variant(
        "Large",
        lambda image: image.resize((3000, 3000), Image.Resampling.BICUBIC),
        "3000 x 3000 pixels. The embedded model brings the field of view to its own scale, so the "
        "size of the file hardly matters.",
        moves=True,
    ),
    Variant(
        "Small",
        lambda image: image.resize((250, 250), Image.Resampling.BOX),
        "250 x 250 pixels. The finest vessels are narrower than a pixel and are lost.",
        moves=True,
    ),
    Variant("Red-free", red_free, "The green channel alone, as red-free photographs show it."),
    Variant("Tinted", tinted, "As a cataract or another camera's white balance tints it."),
    Variant(
        "12 bits",
        twelve_bits,
        "Values from 0 to 4095 in a 16-bit file: pass `bits=12`. Without it, the file looks almost "
        "black, and a warning says so.",
    ),
    Variant("Off-centre", off_centre, "In a wider frame, as some cameras export it.", moves=True),
    Variant("Cut by the frame", cut, "Above and below, as in the data set STARE.", moves=True),
]
FAILS = [
    Variant(
        "Blurred",
        lambda image: blur(image, 0.008),
        "Vessels are found in part or not at all. Take the photograph again; sharpening the file "
        "does not bring the vessels back.",
    ),
    Variant(
        "Underexposed",
        lambda image: noise(image, 8, light=0.12),
        "An eighth of the light, with a sensor's noise. Take it again with more light. If the "
        "file has 16 bits, pass it as it is: brightening an 8-bit copy loses the values.",
    ),
    Variant(
        "Noisy",
        lambda image: noise(image, 55),
        "Fine vessels are lost, and specks appear. Measures leave the specks out (`min_size`).",
    ),
    Variant(
        "Compressed",
        compressed,
        "JPEG at quality 5: the borders of its blocks are straight lines. Use the camera's own "
        "file instead of the one from a chat or a report.",
    ),
    Variant(
        "Lesions and reflections",
        lesions,
        "Drawn haemorrhages, exudates and reflections around the fovea. A few of their edges are "
        "taken for vessels. Familiarity does not notice: look at the overlay.",
    ),
    Variant(
        "Two eyes in one picture",
        two_eyes,
        "Both are segmented, at the scale of one. Measures are of both together: cut the picture "
        "in two to have each for itself.",
        moves=True,
    ),
    Variant(
        "Ultra-wide angle",
        ultra_wide,
        "Drawn: the photograph as the middle of a much wider field, where vessels are half as wide "
        "for the model as in its training. Pass a larger `scale`, and do not compare measures with "
        "those of other cameras.",
        moves=True,
    ),
]


def fit(image: Image.Image) -> Image.Image:
    """The whole picture, reduced or enlarged to the size of a panel."""
    factor = PANEL / max(image.size)
    size = round(factor * image.width), round(factor * image.height)
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def detail(result: vesselseg.Segmentation) -> Image.Image:
    """The part of the photograph with most vessels, pixel by pixel, with their outline."""
    mask = result.mask
    sums = np.pad(mask.cumsum(0, np.int64).cumsum(1), ((1, 0), (1, 0)))
    side = min(PANEL, *mask.shape)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    y, x = np.unravel_index(inside.argmax(), inside.shape)
    part = result.overlay(style="outline", opacity=1).crop((x, y, x + side, y + side))
    return part.resize((PANEL, PANEL), Image.Resampling.NEAREST)


def picture(result: vesselseg.Segmentation, photograph: Image.Image) -> Image.Image:
    """Four panels: photograph, vessels on it, mask, and a detail at its own size."""
    small = fit(photograph)
    share = np.asarray(
        Image.fromarray(result.mask.astype(np.float32)).resize(small.size, Image.Resampling.BOX)
    )
    alpha = np.sqrt(share)[..., None]  # thin vessels stay visible
    tinted = np.asarray(small) * (1 - alpha) + np.multiply(CYAN, alpha)
    tint = Image.fromarray(tinted.astype(np.uint8))
    mask = Image.fromarray((255 * np.sqrt(share)).astype(np.uint8))
    page = Image.new("RGB", (2 * PANEL + 4, 2 * PANEL + 4), "white")
    for number, panel in enumerate((small, tint, mask, detail(result))):
        left, top = (PANEL + 4) * (number % 2), (PANEL + 4) * (number // 2)
        page.paste(panel, (left + (PANEL - panel.width) // 2, top + (PANEL - panel.height) // 2))
    return page


def describe(result: vesselseg.Segmentation, score: float | None) -> str:
    """The line of figures below a title."""
    familiarity = math.floor(100 * result.provenance["familiarity"]) / 100  # as warnings say it
    facts = [f"Familiarity {familiarity:.2f}."]
    if score is not None:
        facts.append(f"Dice {100 * score:.1f}.")
    warning = result.provenance["warning"]
    facts.append(f"Warning: *{warning}*" if warning else "No warning.")
    return " ".join(facts)


def of_variants(model: vesselseg.Segmenter, variants: list[Variant], folder: Path) -> Iterator[str]:
    """Segment variants of the example photograph; yield a section of the page for each."""
    with Image.open(EXAMPLE) as file:
        photograph = file.convert("RGB")
    reference = Image.fromarray(model(photograph).mask).convert("RGB")
    for title, make, text, moves in variants:
        changed = make(photograph)
        is_deep = isinstance(changed, np.ndarray)
        result = model(changed, bits=12 if is_deep else None)
        truth = np.asarray(make(reference) if moves else reference)[..., 0] > 160
        score = dice(confusion(result.mask, truth))
        name = f"{title.lower().replace(' ', '-')}.jpg"
        shown = photograph if is_deep else changed
        picture(result, shown).save(folder / "images" / "gallery" / name, quality=72, optimize=True)
        link = f"![{title}](images/gallery/{name})"
        yield f"### {title}\n\n{text}\n\n{describe(result, score)}\n\n{link}\n"


def of_folder(
    model: vesselseg.Segmenter, name: str, source: Path, limit: int, folder: Path
) -> Iterator[str]:
    """Segment photographs of a data set; yield a section of the page for each."""
    if name in DATASETS:
        dataset = read_dataset(source, name, split="all", limit=limit)
        pairs = [(sample.image, sample.label) for sample in dataset.samples]
    elif (source / "labels").is_dir():
        dataset = read_pairs(source / "images", source / "labels", limit=limit)
        pairs = [(sample.image, sample.label) for sample in dataset.samples]
    else:
        files = sorted(path for path in source.rglob("*.jpg"))
        pairs = [(path, None) for path in files[:limit]]
    for path, label in pairs:
        result = model(path)
        score = None
        if label is not None:
            score = dice(confusion(result.mask, read_label(label)))
        with Image.open(path) as photograph:
            picture(result, photograph).save(
                folder / "images" / "gallery" / f"{name}-{path.stem}.jpg", quality=85
            )
        link = f"![{path.stem}](images/gallery/{name}-{path.stem}.jpg)"
        yield f"### {name}: {path.stem}\n\n{describe(result, score)}\n\n{link}\n"


def main() -> None:
    """Make the page that the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    names = (*DATASETS, *OTHERS)
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar="FOLDER", type=Path)
    parser.add_argument("--limit", type=int, default=5, help="photographs of each data set")
    parser.add_argument("--out", type=Path, help="folder of the page about data sets")
    options = parser.parse_args()
    sources = {name: getattr(options, name) for name in names if getattr(options, name)}
    if bool(sources) != bool(options.out):
        parser.error("give folders of data sets and --out together, or neither")
    logging.getLogger("vesselseg").setLevel(logging.ERROR)  # the page has the warnings
    folder = options.out or DOCS
    (folder / "images" / "gallery").mkdir(parents=True, exist_ok=True)
    model = vesselseg.load_model(device="cpu", precision="float32")
    if sources:
        parts = ["# Open data sets\n"]
        for name, source in sources.items():
            parts.extend(of_folder(model, name, source, options.limit, folder))
    else:
        parts = [INTRODUCTION, "## Where it works\n", *of_variants(model, WORKS, folder)]
        parts += [FAILURES, *of_variants(model, FAILS, folder)]
    (folder / "gallery.md").write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
