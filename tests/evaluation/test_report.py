"""The HTML page: what stands in it, that it stands alone, and that a browser shows it."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from functools import partial
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import drawn, models

from vesselseg import OutputError
from vesselseg.evaluation import report
from vesselseg.evaluation.datasets import Sample, read_dataset, read_pairs
from vesselseg.evaluation.report import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_POSITIVE, percent
from vesselseg.evaluation.scores import Case, evaluate, evaluate_other_observer

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Headings, cells, pictures and captions of a page, in its order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pictures: dict[str, Image.Image] = {}
        self._open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        self._open.append(tag)
        self.texts.setdefault(tag, [])
        if tag == "img":
            start, _, data = values["src"].partition(",")
            assert start == "data:image/jpeg;base64"
            self.pictures[values["alt"]] = Image.open(io.BytesIO(base64.b64decode(data)))

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.texts[self._open[-1]].append(data.strip())


def make(tmp_path, dataset, *, second=None, threshold=0.5):
    """Evaluate the narrow model and write the page: its path, its content, the evaluation."""
    pictures = {}
    keep = partial(report.add_pictures, pictures, "tiny")
    model = models.tiny_model(tmp_path)
    evaluation = evaluate(model, dataset.samples, threshold=threshold, on_case=keep)
    evaluations = [evaluation, second] if second else [evaluation]
    path = report.write_page(tmp_path / "report", dataset, evaluations, pictures)
    return path, Page(path.read_text(encoding="utf-8")), evaluation


def pairs(tmp_path, **options):
    folder = drawn.pairs(tmp_path, **options)
    return read_pairs(folder / "images", folder / "labels")


def test_images_come_worst_first_with_their_figures(tmp_path):
    path, page, evaluation = make(tmp_path, pairs(tmp_path))

    assert path == tmp_path / "report" / "index.html"
    worst = sorted(evaluation.images, key=lambda image: image.figures.dice)
    assert page.texts["h3"] == [image.name for image in worst]
    cells = page.texts["td"]
    for image, start in zip(worst, range(len(cells) - 18, len(cells), 6), strict=True):
        assert cells[start : start + 6] == [percent(value) for value in image.figures]
    assert percent(evaluation.total.figures.dice) in cells
    assert page.texts["h1"] == ["Vessels of 3 pairs"]


def test_an_image_without_defined_dice_comes_last(tmp_path):
    drawn.pairs(tmp_path)
    corner = np.zeros_like(drawn.disc())
    corner[0, 0] = True  # without a vessel
    drawn.write(tmp_path / "masks" / "a.png", corner)
    for name in "bc":
        drawn.write(tmp_path / "masks" / f"{name}.png", drawn.disc())
    dataset = read_pairs(tmp_path / "images", tmp_path / "labels", tmp_path / "masks")

    _, page, _ = make(tmp_path, dataset, threshold=1.0)

    assert page.texts["h3"][-1] == "a"
    assert page.texts["td"][-6:] == ["-", "-", "100.00", "100.00", "-", "-"]


def test_each_image_has_its_photograph_and_an_overlay(tmp_path):
    dataset = pairs(tmp_path)
    _, page, _ = make(tmp_path, dataset)

    kinds = ["Photograph", "Label", "tiny"]
    assert set(page.pictures) == {f"{n}: {kind}" for n in "abc" for kind in kinds}
    for seed, name in enumerate("abc"):
        shown = np.asarray(page.pictures[f"{name}: Photograph"]).astype(int)
        assert abs(shown - drawn.photograph(seed)).mean() < 6  # JPEG is not exact
        label = np.asarray(page.pictures[f"{name}: Label"].convert("L")) > 127
        assert (label != drawn.vessels(seed)).mean() < 0.02
    assert page.texts["figcaption"][2:] == kinds * 3


def test_the_second_observer_has_figures_but_no_place_in_the_order(tmp_path):
    dataset = read_dataset(drawn.chase_db1(tmp_path / "data"), "chase_db1")
    second = evaluate_other_observer(dataset)

    _, page, evaluation = make(tmp_path, dataset, second=second)

    worst = sorted(evaluation.images, key=lambda image: image.figures.dice)
    assert page.texts["h3"] == [image.name for image in worst]
    assert page.texts["th"].count("second observer") == 4 + 8  # tables, images
    assert not any("second observer" in name for name in page.pictures)
    assert "warning" not in str(page.tags)


def test_curves_over_the_threshold_and_of_reliability_are_drawn(tmp_path):
    _, page, evaluation = make(tmp_path, pairs(tmp_path))

    lines = [values["points"] for tag, values in page.tags if tag == "polyline"]
    assert len(lines) == 5  # Dice, sensitivity and precision; vessels and the ideal
    dice = [tuple(map(float, point.split(","))) for point in lines[0].split()]
    assert dice[50] == pytest.approx((50, 100 - 100 * evaluation.total.figures.dice), abs=0.01)
    names = ["tiny: threshold", "tiny: reliability"]
    assert page.texts["figcaption"][:2] == names
    assert [values["aria-label"] for tag, values in page.tags if tag == "svg"] == names


def test_training_images_are_called_so_in_large_letters(tmp_path):
    dataset = read_dataset(drawn.chase_db1(tmp_path / "data"), "chase_db1", split="train")

    _, page, _ = make(tmp_path, dataset)

    title = "Vessels of CHASE_DB1, training images, not a test: 20 of 20 images"
    assert page.texts["h1"] == [title]
    assert ("p", {"class": "warning"}) in page.tags
    assert "Training images, not a test." in page.texts["p"]


def test_the_page_stands_alone(tmp_path):
    path, page, _ = make(tmp_path, pairs(tmp_path))

    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    sources = ("src", "href", "srcset", "action")
    links = [values[name] for _, values in page.tags for name in sources if name in values]
    assert len(links) == 9
    assert all(link.startswith("data:") for link in links)
    assert not re.search(r"https?://|@import|url\(", path.read_text(encoding="utf-8"))
    assert sorted(p.name for p in path.parent.iterdir()) == ["index.html"]


def test_names_of_files_are_text_not_html(tmp_path):
    _, page, _ = make(tmp_path, pairs(tmp_path, names=("<img src=x>", "a&b", '"c"')))

    assert set(page.texts["h3"]) == {"<img src=x>", "a&b", '"c"'}
    assert len(page.pictures) == 9


def test_overlay_colours_say_what_is_right_and_wrong():
    label, mask, fov = np.zeros((3, 20, 30), dtype=bool)
    label[:10, :20], mask[:10, 10:], fov[:, :25] = True, True, True
    photograph = np.full((20, 30, 3), 200, dtype=np.uint8)
    sample = Sample("a", "", Path("a.png"), Path("a.png"))

    pixels = report.draw_overlay(Case(sample, photograph, mask, label, fov))

    assert pixels.shape == photograph.shape
    assert (pixels[label & mask] == TRUE_POSITIVE).all()
    assert (pixels[mask & ~label] == FALSE_POSITIVE).all()
    assert (pixels[label & ~mask] == FALSE_NEGATIVE).all()
    inside, outside = pixels[15, 10], pixels[15, 28]
    assert 0.4 * 100 < max(outside) < max(inside) <= 100  # so that the colours stand out
    assert len(set(inside)) == 1  # and grey


# Machado et al. 2009, doi:10.1109/TVCG.2009.113: complete colour blindness of each kind.
BLINDNESS = {
    "none": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
    "no colours": np.tile([0.2126, 0.7152, 0.0722], (3, 1)),
}  # fmt: skip


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_differ_for_the_colour_blind(kind):
    from skimage.color import deltaE_ciede2000, rgb2lab

    def seen(color):
        linear = (np.array(color) / 255) ** 2.2
        return rgb2lab((np.array(BLINDNESS[kind]) @ linear).clip(0, 1) ** (1 / 2.2))

    colors = [TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE, (100, 100, 100)]
    least = min(deltaE_ciede2000(seen(a), seen(b)) for a, b in combinations(colors, 2))

    assert least > 10  # 1 is just noticeable side by side


def test_large_photographs_are_shown_reduced():
    big = np.zeros((1600, 2400, 3), dtype=np.uint8)
    nothing = np.zeros((1600, 2400), dtype=bool)
    pictures = {}
    case = Case(Sample("a", "", Path("a"), Path("a")), big, nothing, nothing, ~nothing)
    report.add_pictures(pictures, "tiny", case)

    assert len(pictures["a"]) == 3
    for _, uri in pictures["a"]:
        (shown,) = Page(f'<img src="{uri}" alt="">').pictures.values()
        assert shown.size == (1200, 800)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    dataset = pairs(tmp_path)
    evaluation = evaluate(models.tiny_model(tmp_path), dataset.samples)

    with pytest.raises(OutputError, match="cannot be created"):
        report.write_page(tmp_path / "file" / "report", dataset, [evaluation], {})


def browse(page, profile, *flags):
    """Run headless Chromium on a page; its standard output."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={profile}", *flags, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_chromium_shows_figures_and_pictures(tmp_path):
    probability = models.tiny_model(tmp_path)(drawn.photograph(0)).probability
    middle = float(np.median(probability))  # so that there are errors of both kinds
    path, _, evaluation = make(tmp_path, pairs(tmp_path), threshold=middle)

    page = Page(browse(path, tmp_path / "profile", "--dump-dom"))

    worst = sorted(evaluation.images, key=lambda image: image.figures.dice)
    assert page.texts["h3"] == [image.name for image in worst]
    assert page.texts["td"][-6:] == [percent(value) for value in worst[-1].figures]
    assert len(page.pictures) == 9

    screenshot = tmp_path / "page.png"
    browse(path, tmp_path / "profile", f"--screenshot={screenshot}", "--window-size=1000,2600")
    with Image.open(screenshot) as image:
        shown = np.asarray(image.convert("RGB")).astype(int)
    for color in (FALSE_POSITIVE, FALSE_NEGATIVE):
        pixels = np.count_nonzero(abs(shown - color).max(axis=2) < 25)
        assert pixels > 2000  # a patch of the legend has about 300
