"""The HTML page: what stands in it and beside it, and that a browser shows, sorts and prints it."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
import shutil
import subprocess
from functools import partial
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from support import drawn, models

import vesselseg
from vesselseg import OutputError
from vesselseg.evaluation import report
from vesselseg.evaluation.datasets import Sample, read_dataset, read_pairs
from vesselseg.evaluation.figures import draw_figures
from vesselseg.evaluation.report import FALSE_NEGATIVE, FALSE_POSITIVE, TRUE_POSITIVE, percent
from vesselseg.evaluation.scores import Case, evaluate, evaluate_other_observer

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


class Page(HTMLParser):
    """Headings, cells, rows of photographs, pictures and captions of a page, in its order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.folder = path.parent
        self.html = path.read_text(encoding="utf-8")
        self.texts: dict[str, list[str]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.pictures: dict[str, np.ndarray] = {}
        self._open: list[str] = []
        self.feed(self.html)

    @property
    def photographs(self) -> list[list[str]]:
        """The cells of the table of photographs, a list for each row."""
        table = re.search(r'<table class="sortable">.*?<tbody>(.*?)</tbody>', self.html, re.DOTALL)
        rows = re.findall(r"<tr.*?>(.*?)</tr>", table[1], re.DOTALL)
        cells = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]
        return [[re.sub(r"<.*?>", "", cell) for cell in row] for row in cells]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.append((tag, values))
        self._open.append(tag)
        self.texts.setdefault(tag, [])
        if tag == "img" and values["src"].startswith("pictures/"):
            self.pictures[values["alt"]] = drawn.pixels(self.folder / values["src"])

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.texts[self._open[-1]].append(data.strip())


def make(tmp_path, dataset, *, second=None, threshold=0.5, **options):
    """Evaluate the tiny model and write the page: its path, its content, the evaluation."""
    pictures = report.Pictures(tmp_path / "report")
    model = models.tiny_model(tmp_path)
    keep = partial(pictures.add, "tiny")
    evaluation = evaluate(model, dataset.samples, threshold=threshold, on_case=keep)
    evaluations = [evaluation, second] if second else [evaluation]
    run = report.describe_run(evaluations, "vesselseg evaluate here")
    path = report.write_page(tmp_path / "report", dataset, evaluations, pictures, run, **options)
    return path, Page(path), evaluation


def pairs(tmp_path, **options):
    folder = drawn.pairs(tmp_path, **options)
    return read_pairs(folder / "images", folder / "labels")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The page of three pairs, which tests only read: its path, its content, the evaluation."""
    folder = tmp_path_factory.mktemp("made")
    return make(folder, pairs(folder))


@pytest.mark.slow
def test_images_come_worst_first_with_their_figures(made):
    path, page, evaluation = made

    assert path == path.parent / "index.html"
    worst = sorted(evaluation.images, key=lambda image: image.figures.dice)
    assert page.texts["h3"] == [image.name for image in worst]
    assert page.photographs == [
        [image.name, image.subject, *map(percent, image.figures)] for image in worst
    ]
    assert percent(evaluation.total.figures.dice) in page.texts["td"]
    assert page.texts["h1"] == ["Vessels of 3 pairs"]


@pytest.fixture
def no_figures(monkeypatch):
    """Pages without figures, which take most of the time."""
    monkeypatch.setattr(report, "draw_figures", lambda *_: [])


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
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
    assert page.photographs[-1] == ["a", "a", "-", "-", "100.00", "100.00", "-", "-"]


def test_each_image_has_its_photograph_and_an_overlay(made):
    _, page, _ = made

    kinds = ["Photograph", "Label", "tiny"]
    assert set(page.pictures) == {f"{n}: {kind}" for n in "abc" for kind in kinds}
    for seed, name in enumerate("abc"):
        shown = page.pictures[f"{name}: Photograph"].astype(int)
        assert abs(shown - drawn.photograph(seed)).mean() < 6  # JPEG is not exact
        label = page.pictures[f"{name}: Label"] > 127
        assert (label != drawn.vessels(seed)).mean() < 0.02
    assert page.texts["figcaption"][-9:] == kinds * 3


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    """The page of photographs with two observers, with figures: as `made`, and the second one."""
    folder = tmp_path_factory.mktemp("observed")
    dataset = read_dataset(drawn.chase_db1(folder / "data"), "chase_db1")
    second = evaluate_other_observer(dataset)
    return *make(folder, dataset, second=second, formats=("svg", "pdf")), second


@pytest.mark.slow
def test_the_second_observer_has_figures_but_no_place_in_the_order(observed):
    _, page, evaluation, second = observed

    worst = sorted(evaluation.images, key=lambda image: image.figures.dice)
    assert page.texts["h3"] == [image.name for image in worst]
    figures = {image.name: image.figures for image in second.images}
    for name, _, *cells in page.photographs:
        assert cells[6:] == list(map(percent, figures[name]))
    assert not any("second observer" in name for name in page.pictures)
    assert "warning" not in str(page.tags)


def test_intervals_stand_under_the_figures(made):
    _, page, evaluation = made

    interval = evaluation.intervals()["dice"]
    assert f"{percent(interval.low)} to {percent(interval.high)}" in page.texts["small"]
    assert any("over 3 subjects (3 photographs)" in text for text in page.texts["p"])
    assert any("not reliable" in text for text in page.texts["p"])


@pytest.mark.slow
def test_figures_are_files_beside_the_page(observed):
    path, page, _, _ = observed

    names = [
        "precision-recall", "roc", "threshold", "reliability", "agreement-density",
        "agreement-width",
    ]  # fmt: skip
    sources = [values["src"] for tag, values in page.tags if tag == "img"]
    assert sources[:6] == [f"figures/{name}.svg" for name in names]
    for name in names:
        svg = (path.parent / "figures" / f"{name}.svg").read_text(encoding="utf-8")
        assert "<svg" in svg
        assert (path.parent / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert f'href="figures/{name}.pdf"' in page.html


def test_the_page_says_what_made_it(made):
    _, page, evaluation = made

    said = " ".join(page.texts["dd"])
    for text in ("vesselseg evaluate here", vesselseg.__version__, evaluation.data_digest):
        assert text in said
    assert evaluation.provenance["sha256"] in page.html
    assert evaluation.provenance["spec"] in page.html


def test_the_data_are_beside_the_page(made):
    path, page, evaluation = made

    links = {values["href"] for tag, values in page.tags if tag == "a"}
    assert {"evaluation.csv", "evaluation.json"} <= links
    with (path.parent / "evaluation.csv").open(newline="") as stream:
        assert [row["image"] for row in csv.DictReader(stream)] == ["a", "b", "c"]
    written = json.loads((path.parent / "evaluation.json").read_text())
    assert written["run"]["data_sha256"] == evaluation.data_digest


def test_the_page_needs_its_folder_alone(made):
    path, page, _ = made

    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    sources = ("src", "href", "srcset", "action")
    links = [values[name] for _, values in page.tags for name in sources if name in values]
    for link in links:
        assert link.startswith("#") or (path.parent / link).is_file()
    assert not re.search(r"https?://|@import|url\(", page.html)
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "evaluation.csv", "evaluation.json", "figures", "index.html", "pictures"
    ]  # fmt: skip


def test_pictures_are_loaded_when_they_are_scrolled_to(made):
    _, page, _ = made

    pictures = [values for tag, values in page.tags if tag == "img" and "width" in values]
    assert len(pictures) == 9
    for values in pictures:
        assert values["loading"] == "lazy"
        assert (int(values["width"]), int(values["height"])) == (drawn.WIDTH, drawn.HEIGHT)


@pytest.mark.slow
def test_figures_of_a_single_empty_mask_and_an_odd_name(tmp_path):
    dataset = pairs(tmp_path, names=("a",))
    evaluation = evaluate(models.tiny_model(tmp_path), dataset.samples, threshold=1)
    odd = dataclasses.replace(evaluation, name="_odd $x^ name")

    before = dict(matplotlib.rcParams)
    drawings = draw_figures(tmp_path, [odd])

    assert dict(matplotlib.rcParams) == before
    assert math.isnan(odd.total.widths[0])
    for drawing in drawings:
        assert (tmp_path / f"{drawing.name}.svg").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.usefixtures("no_figures")
def test_names_are_text_and_those_alike_in_addresses_keep_their_own_pictures(tmp_path):
    names = ("a b", "a&b", "a_b", "<img src=x>", '"c"')

    _, page, _ = make(tmp_path, pairs(tmp_path, names=names))

    assert set(page.texts["h3"]) == set(names)
    for seed, name in enumerate(names):
        shown = page.pictures[f"{name}: Photograph"].astype(int)
        assert abs(shown - drawn.photograph(seed)).mean() < 6


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


@pytest.mark.slow
@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_differ_for_the_colour_blind(kind):
    from skimage.color import deltaE_ciede2000, rgb2lab

    def seen(color):
        linear = (np.array(color) / 255) ** 2.2
        return rgb2lab((np.array(BLINDNESS[kind]) @ linear).clip(0, 1) ** (1 / 2.2))

    colors = [TRUE_POSITIVE, FALSE_POSITIVE, FALSE_NEGATIVE, (100, 100, 100)]
    least = min(deltaE_ciede2000(seen(a), seen(b)) for a, b in combinations(colors, 2))

    assert least > 10  # 1 is just noticeable side by side


def test_large_photographs_are_shown_reduced(tmp_path):
    big = np.zeros((1600, 2400, 3), dtype=np.uint8)
    nothing = np.zeros((1600, 2400), dtype=bool)
    pictures = report.Pictures(tmp_path)
    case = Case(Sample("a", "", Path("a"), Path("a")), big, nothing, nothing, ~nothing)
    pictures.add("tiny", case)

    files = list((tmp_path / "pictures").iterdir())
    assert len(files) == 3
    for file in files:
        with Image.open(file) as shown:
            assert shown.size == (1200, 800)


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(OutputError, match="cannot be created"):
        report.Pictures(tmp_path / "file" / "report")


def test_a_page_whose_pictures_are_being_replaced_is_removed(tmp_path):
    (tmp_path / "index.html").touch()

    report.Pictures(tmp_path)

    assert not (tmp_path / "index.html").exists()


def browse(page, profile, *flags):
    """Run headless Chromium on a page; its standard output."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", f"--user-data-dir={profile}", *flags, page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_chromium_shows_figures_and_pictures(tmp_path):
    probability = models.tiny_model(tmp_path)(drawn.photograph(0)).probability
    middle = float(np.median(probability))  # so that there are errors of both kinds
    path, _, _ = make(tmp_path, pairs(tmp_path), threshold=middle)

    shown = browse(path, tmp_path / "profile", "--dump-dom")

    # The script, which the page allows by its digest, has made buttons of the headings.
    assert shown.count("<button>") == 2 + 6
    assert "clDice</button>" in shown

    screenshot = tmp_path / "page.png"
    browse(path, tmp_path / "profile", f"--screenshot={screenshot}", "--window-size=1000,6000")
    with Image.open(screenshot) as image:
        shown = np.asarray(image.convert("RGB")).astype(int)
    for color in (FALSE_POSITIVE, FALSE_NEGATIVE):
        pixels = np.count_nonzero(abs(shown - color).max(axis=2) < 25)
        assert pixels > 2000  # a patch of the legend has about 300


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_a_click_on_a_heading_sorts_the_photographs(made, tmp_path):
    path = shutil.copytree(made[0].parent, tmp_path / "page") / "index.html"
    click = "document.querySelectorAll('.sortable button')[0].click();"
    html = path.read_text(encoding="utf-8")
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    # A page of our own without the rule on scripts, since the browser has no one to click.
    clicked = path.with_name("clicked.html")
    for times, order in ((1, "abc"), (2, "cba")):
        text = re.sub(r"<meta http-equiv.*?>", "", html).replace(script, script + click * times)
        clicked.write_text(text, encoding="utf-8")
        shown = path.with_name("shown.html")
        shown.write_text(browse(clicked, tmp_path / "profile", "--dump-dom"), encoding="utf-8")
        assert [row[0] for row in Page(shown).photographs] == list(order)
