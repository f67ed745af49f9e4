"""The page in a real browser, on a desk and on a phone."""

import io
import json
import shutil
import threading
import zipfile

import numpy as np
import pytest
import requests
from PIL import Image
from support import EXAMPLE, wait_for
from support.dicom import dicom_file
from support.drawn import twelve_bits

import vesselseg
from vesselseg.batch.table import Table

pytest.importorskip("starlette", reason="the extra app is not installed")
pytest.importorskip("uvicorn", reason="the extra app is not installed")
from support.app import served
from support.page import Page

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

SIZES = {1440: 900, 390: 844}
LIMIT = 400_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the browser puts downloads."""
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def driver(folder):
    """A Chromium that finds no other host."""
    webdriver = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install selenium"
    )
    browser, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (browser and chromedriver):
        pytest.skip("no Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
        "disable-dev-shm-usage", "disable-background-networking", "disable-component-update",
        "disable-sync", "window-size=1440,900", f"user-data-dir={folder / 'profile'}",
        "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=chromedriver)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture
def width(request):
    """Of the window, in pixels."""
    return getattr(request, "param", 1440)


on_desk_and_phone = pytest.mark.parametrize("width", SIZES, indirect=True)
"""Marks what depends on the size of the window, or on whether it is touched."""


@pytest.fixture
def open_page(driver, folder, width):
    """A function that opens a page at an address, at the width."""

    def open_at(url):
        page = Page(driver, url, folder)
        page.resize(width, SIZES[width])
        page.open()
        return page

    yield open_at
    driver.get("about:blank")


class Network:
    """The model of the page: counts what it is given, and waits while it is held."""

    def __init__(self, model):
        self.model = model
        self.scale = None  # the model's own
        self.count = 0
        self.stopped = 0
        self.go = threading.Event()
        self.go.set()

    def __call__(self, content, *, progress, **options):
        self.count += 1
        try:
            while not self.go.wait(0.05):
                progress(0, 1)
        except Exception:
            self.stopped += 1
            raise
        return self.model(content, progress=progress, scale=self.scale, **options)


@pytest.fixture
def network(model):
    network = Network(model)
    yield network
    network.go.set()


@pytest.fixture
def page(network, open_page):
    """The page with a narrow model, which takes no time."""
    with served(network, load=lambda **_: network, max_upload=LIMIT) as url:
        yield open_page(url)
        network.go.set()  # or the server would wait for it


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """Six photographs: of other sizes and colours, the third blank and the fourth no image."""
    folder = tmp_path_factory.mktemp("photographs")
    with Image.open(EXAMPLE) as opened:
        whole = opened.convert("RGB")
    paths = [folder / f"{name}.png" for name in ("anna", "bert", "carl", "dora", "emil", "fritz")]
    for number, path in enumerate(paths):
        side = 150 + 10 * number
        whole.resize((side, side + 5)).rotate(90 * number).save(path)
    Image.new("RGB", (170, 175), "gray").save(paths[2])
    paths[3].write_text("not an image")
    return paths


@pytest.fixture(scope="module")
def expected(model, six):
    """What the library makes of those that are photographs, by name."""
    return {path.name: model(path) for path in six if path.stem != "dora"}


@on_desk_and_phone
def test_the_drop_area_stands_where_the_picture_will_be(page, width, six):
    drop = page.box("drop")
    assert drop["width"] > 0.65 * width
    assert drop["height"] > 0.7 * SIZES[width]
    assert not page.is_shown("frame")
    page.add(six[0])
    page.wait_until_done()
    frame = page.box("frame")
    assert not page.is_shown("drop")
    assert drop["left"] - 1 <= frame["left"] < frame["right"] <= drop["right"] + 1
    assert drop["top"] <= frame["top"] < drop["bottom"]


def test_the_example_can_be_tried_as_it_is_small_and_blurred(page, network):
    network.scale = 0.1  # since it is larger than the others, and what is found does not matter
    sizes, contrasts = {}, {}
    for kind in ("whole", "small", "blurred"):
        page.click(f"[data-example='{kind}']")
        page.wait_until_done()
        sizes[page.text("name")] = page.text("facts").partition(" pixels")[0]
        contrasts[kind] = page.script(
            "const x = new OffscreenCanvas(1000, 1000).getContext('2d');"
            "x.drawImage(document.querySelector('#photograph img'), 0, 0);"
            "const d = x.getImageData(200, 200, 600, 600).data; let s = 0;"
            "for (let j = 5; j < d.length; j += 4) s += Math.abs(d[j] - d[j - 4]); return s;"
        )  # between neighbours, of green
        page.click("#remove")
    assert sizes == {
        "example.jpg": "1000 \N{MULTIPLICATION SIGN} 1000",
        "example-small.jpg": "300 \N{MULTIPLICATION SIGN} 300",
        "example-blurred.jpg": "1000 \N{MULTIPLICATION SIGN} 1000",
    }
    assert contrasts["blurred"] < 0.5 * contrasts["whole"]
    assert "CC0" in page.text("drop")


def test_everything_shown_of_a_photograph_is_its_own(page, six, expected):
    page.add(*six)
    page.wait_until_done()
    assert [name for name, _ in page.list()] == [path.name for path in six]
    for name in [path.name for path in (*six, *reversed(six))]:
        page.select(name)
        assert page.text("name") == name
        if name == "dora.png":
            assert page.text("facts") == "Not segmented"
            assert page.text("error").startswith("The file could not be decoded")
            assert page.text("warnings") == ""
            assert not page.is_shown("frame")
            continue
        height, width = expected[name].shape
        assert page.text("facts").startswith(f"{width} \N{MULTIPLICATION SIGN} {height} pixels · ")
        assert " s · narrow · " in page.text("facts")
        assert page.text("error") == ""
        # It names the diameter of the field of view, or that there is none.
        warnings = page.text("warnings").replace("\n", " ")
        assert warnings == expected[name].provenance["warning"] != ""
        np.testing.assert_array_equal(page.canvas()[..., 3] == 255, expected[name].mask)
        assert page.script("return document.querySelector('#photograph img').naturalWidth") == width


@on_desk_and_phone
def test_no_result_stands_beside_a_photograph_that_has_none(page, six, network):
    """While one waits, is segmented, or was cancelled, nothing of another one is there."""
    page.add(six[2])  # with a warning
    page.wait_until_done()
    assert page.text("warnings")
    network.go.clear()
    page.add(six[0], six[1])
    page.select("anna.png")
    wait_for(lambda: page.text("facts").startswith("Segmenting … "))
    assert page.text("facts").endswith("s · narrow")
    for name, state in (("bert.png", "Waiting for its turn"), ("anna.png", "Segmenting")):
        page.select(name)
        assert page.text("name") == name
        assert page.text("facts").startswith(state)
        assert page.text("warnings") == ""
        assert not page.is_shown("vessels")
        assert not page.driver.find_element("css selector", "[data-file='mask.png']").is_enabled()
    page.click("#cancel")
    assert page.text("facts") == "Cancelled"
    assert not page.is_shown("frame")
    page.select("carl.png")
    assert page.text("warnings")
    assert page.is_shown("vessels")


def test_a_photograph_that_takes_long_is_cancelled_and_the_server_stops(page, six, network):
    network.go.clear()
    page.add(*six[:2])
    wait_for(lambda: network.count == 1)
    page.click("#cancel")
    wait_for(lambda: network.stopped == 1)
    wait_for(lambda: network.count == 2)  # the next one
    assert [word for _, word in page.list()] == ["cancelled", "segmenting"]
    network.go.set()
    page.click("#again")
    page.wait_until_done()
    assert "pixels" in page.text("facts")


def test_cancelling_another_segmentation_shows_the_earlier_result_again(page, six, network):
    page.add(six[0])
    page.wait_until_done()
    facts = page.text("facts")
    network.go.clear()
    page.choose("model", "Any camera (built in)")
    wait_for(lambda: page.text("facts").startswith("Segmenting … "))
    assert not page.is_shown("vessels")
    page.click("#cancel")
    assert page.text("facts") == facts
    assert page.is_shown("vessels")
    assert page.chosen("model") == "narrow"


def test_a_photograph_is_removed_here_and_on_the_server(page, six):
    page.add(*six[:2])
    page.wait_until_done()
    token = page.token()
    mask = f"{page.url}/results/{token}/mask.png"
    assert requests.get(mask, timeout=30).status_code == 200
    page.click("#remove")
    assert page.text("name") == "bert.png"
    assert [name for name, _ in page.list()] == ["bert.png"]
    wait_for(lambda: requests.get(mask, timeout=30).status_code == 404)
    page.click("#remove")
    assert page.is_shown("drop")


def test_a_file_added_twice_is_one_and_the_same_name_of_two_is_told_apart(page, six, tmp_path):
    other = tmp_path / "anna.png"
    shutil.copy(six[1], other)
    page.add(six[0], six[1])
    page.add(six[0])
    page.add(other)
    page.wait_until_done()
    assert [name for name, _ in page.list()] == ["anna.png", "bert.png", "anna.png (2)"]
    page.select("anna.png (2)")
    assert page.download("mask.png", "anna (2)_mask.png")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("'no image'", "The file could not be decoded"),
        (f"new Uint8Array({LIMIT} + 1)", "The file has 0.4 MB; at most 0.4 MB are accepted"),
    ],
)
def test_dropped_files_that_are_not_accepted_are_reported(page, content, told):
    page.drop(f"new File([{content}], 'notes.jpg')")
    wait_for(lambda: page.text("error").startswith(told))
    assert page.text("name") == "notes.jpg"


def test_dropped_text_is_no_photograph(page):
    page.drop("'a link', 'text/plain'")
    assert page.text("notice").startswith("There was no file.")


def test_downloads_are_the_librarys_own_files(page, six, model, tmp_path):
    threshold = 0.52
    page.add(six[0])
    page.wait_until_done()
    page.set("threshold", threshold)
    vesselseg.segment_folder(
        six[0], tmp_path, model=model, kinds=("mask", "probability", "fov"), threshold=threshold,
        progress=False,
    )  # fmt: skip
    mask = np.asarray(Image.open(tmp_path / "anna.png")) > 0
    np.testing.assert_array_equal(page.canvas()[..., 3] == 255, mask)
    own = {"mask": "anna.png", "probability": "anna_probability.png", "fov": "anna_fov.png"}
    for kind, file in own.items():
        content = page.download(f"{kind}.png", f"anna_{kind}.png")
        assert content == (tmp_path / file).read_bytes()
    share = float(page.text("facts").split(" · ")[-1].split()[0])
    result = model(six[0], threshold=threshold)
    assert share == pytest.approx(100 * result.vessel_fraction(), abs=0.06)


def test_style_colour_and_opacity_hold_for_the_picture_and_the_download(page, six, expected):
    page.add(six[0])
    page.wait_until_done()
    page.choose("style", "outlined")
    page.set("color", "#ff8000")
    page.set("opacity", 0.5)
    look = {"style": "outline", "color": (255, 128, 0)}
    overlay = expected["anna.png"].overlay(**look, opacity=0.5)
    with Image.open(io.BytesIO(page.download("overlay.png", "anna_overlay.png"))) as saved:
        np.testing.assert_array_equal(saved, overlay)
    drawn = page.canvas()
    is_drawn = drawn[..., 3] == 255
    whole, plain = (np.asarray(expected["anna.png"].overlay(**look, opacity=x)) for x in (1, 0))
    np.testing.assert_array_equal(is_drawn | (whole == plain).all(-1), True)
    assert (drawn[is_drawn][:, :3] == (255, 128, 0)).all()
    assert page.script("return document.getElementById('vessels').style.opacity") == "0.5"


def test_mask_probability_and_field_of_view_are_shown(page, six, expected):
    page.add(six[0])
    page.wait_until_done()
    result = expected["anna.png"]
    page.choose("show", "mask")
    np.testing.assert_array_equal(page.canvas()[..., 0] > 0, result.mask)
    page.choose("show", "probability")
    grey = np.floor(result.probability * 255 + 0.5)
    np.testing.assert_allclose(page.canvas()[..., 0], grey, atol=1)
    assert not page.is_shown("fov")
    page.click("#show-fov")
    border = page.canvas("fov")[..., 3] > 0
    step = max(result.shape) / max(border.shape)
    rows, columns = (np.floor(np.arange(side) * step).astype(int) for side in border.shape)
    inside = result.field_of_view[rows][:, columns]
    assert 0 < border.mean() < 0.05
    assert (inside | ~border).all()
    rows, columns = np.nonzero(border)
    inner_rows, inner_columns = np.nonzero(inside)
    assert abs(np.ptp(rows) - np.ptp(inner_rows)) < 5
    assert abs(np.ptp(columns) - np.ptp(inner_columns)) < 5


@on_desk_and_phone
def test_measures_are_computed_and_shown_on_request(page, six, expected):
    page.add(six[0])
    page.wait_until_done()
    assert not page.is_shown("measures")
    assert not any("measures" in name or "table" in name for name in page.requests())
    page.choose("show", "measures")
    wait_for(lambda: page.is_shown("measures"), 180)
    measures = expected["anna.png"].measure()
    rows = page.script(
        "return [...document.querySelectorAll('#measures tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    values = measures.to_dict()
    assert [row[0] for row in rows] == list(values)
    for name, text, *_ in rows:
        value = values[name]
        assert text == "none" if value is None else float(text) == float(f"{value:.6g}")
    assert not page.is_shown("vessels")
    shown = "return document.querySelector('#photograph img').naturalWidth"
    assert page.script(shown) == measures.overlay().width
    page.click("#full")
    full = page.box("layer")["width"]
    assert full == pytest.approx(max(measures.overlay().width, page.box("frame")["width"]), abs=1)
    page.choose("color-by", "segment")
    wait_for(lambda: page.is_shown("measures"))
    content = page.download("measures.png", "anna_measures.png")
    with Image.open(io.BytesIO(content)) as saved:
        np.testing.assert_array_equal(saved, measures.overlay(color_by="segment"))
    page.set("mm-per-pixel", "0.01")
    wait_for(lambda: "length_mm" in page.text("measures"))
    overflow = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.script(overflow)
    page.choose("show", "mask")
    assert not page.is_shown("measures")
    assert page.is_shown("vessels")


def test_a_segmentation_object_is_offered_of_dicom_photographs(page, six, photograph, tmp_path):
    pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    (tmp_path / "eye.dcm").write_bytes(dicom_file(photograph[:150, :130], PatientID="4711"))
    page.add(tmp_path / "eye.dcm", six[0])
    page.wait_until_done()
    content = page.download("seg.dcm", "eye_seg.dcm")
    assert pydicom.dcmread(io.BytesIO(content)).PatientID == "4711"
    page.select("anna.png")
    assert not page.driver.find_element("css selector", "[data-file='seg.dcm']").is_displayed()


def test_everything_is_downloaded_as_a_zip(page, six, model, tmp_path, folder):
    page.add(*six)
    page.wait_until_done()
    page.click("#zip")
    with zipfile.ZipFile(io.BytesIO(page.downloaded("vesselseg.zip"))) as archive:
        assert archive.testzip() is None
        archive.extractall(folder / "zip")
    vesselseg.segment_folder(
        six, tmp_path, model=model, kinds=("mask", "overlay"), progress=False,
        manifest=tmp_path / "manifest.jsonl", measure=True,
    )  # fmt: skip
    rows = {row["input"]: row for row in Table(str(folder / "zip" / "manifest.jsonl")).rows}
    measures = {row["input"]: row for row in Table(str(folder / "zip" / "measures.csv")).rows}
    assert list(rows) == [path.name for path in six]
    assert rows["dora.png"]["error"].startswith("The file could not be decoded")
    for own in Table(str(tmp_path / "manifest.jsonl")).rows:
        name = own.pop("input").rpartition("/")[2]
        if name == "dora.png":
            continue
        for kind in ("mask", "overlay"):
            assert rows[name][kind] == f"{name[:-4]}_{kind}.png"
            content = (folder / "zip" / rows[name][kind]).read_bytes()
            with open(own.pop(kind), "rb") as written:  # noqa: PTH123
                assert content == written.read()
        seconds = own.pop("seconds")
        assert seconds > 0
        found = {**rows[name], **measures[name]}
        assert {key: found[key] for key in own} == pytest.approx(own, nan_ok=True)
        assert "density" in own


def test_what_is_changed_while_a_zip_is_collected_is_not_mixed_in(page, six, network, expected):
    page.add(six[0])
    page.wait_until_done()
    page.script(
        "const fetch = window.fetch; window.fetch = async (address, options) => {"
        " const isFirst = !window.go && String(address).includes('mask.png');"
        " if (isFirst) await new Promise((go) => (window.go = go));"
        " return fetch(address, options); }"
    )
    page.click("#zip")
    wait_for(lambda: page.script("return Boolean(window.go)"))
    page.set("threshold", 0.9)
    page.choose("model", "Any camera (built in)")
    wait_for(lambda: network.count == 2)
    page.wait_until_done()
    page.script("window.go()")
    with zipfile.ZipFile(io.BytesIO(page.downloaded("vesselseg.zip"))) as archive:
        (row,) = map(json.loads, archive.read("manifest.jsonl").splitlines())
        with Image.open(archive.open("anna_mask.png")) as mask:
            np.testing.assert_array_equal(np.asarray(mask) > 0, expected["anna.png"].mask)
            written = json.loads(mask.text["vesselseg"])
    assert row["threshold"] == written["threshold"] == 0.5
    assert " · Any camera (built in) · " in page.text("facts")


def test_results_that_the_server_released_are_segmented_again(network, open_page, six, expected):
    with served(network, max_upload=LIMIT, memory=1) as url:
        page = open_page(url)
        page.add(*six)
        page.wait_until_done()
        before = network.count
        page.select("anna.png")
        for name in ("anna", "bert"):
            page.select(f"{name}.png")
            content = page.download("mask.png", f"{name}_mask.png")
            with Image.open(io.BytesIO(content)) as mask:
                np.testing.assert_array_equal(np.asarray(mask) > 0, expected[f"{name}.png"].mask)
        assert network.count == before + 2
        page.click("#zip")
        with zipfile.ZipFile(io.BytesIO(page.downloaded("vesselseg.zip"))) as archive:
            for name, result in expected.items():
                with Image.open(archive.open(f"{name[:-4]}_mask.png")) as mask:
                    np.testing.assert_array_equal(np.asarray(mask) > 0, result.mask)


def test_collecting_a_zip_can_be_cancelled(page, six):
    page.add(*six)
    page.wait_until_done()
    page.script("window.fetch = () => new Promise((_, no) => window.stop = no)")
    page.click("#zip")
    assert page.text("zip") == "Collecting 1 of 6 …"
    page.click("#cancel-zip")
    page.script("window.stop(new DOMException('', 'AbortError'))")
    wait_for(lambda: page.text("zip") == "Everything as a zip (5)")
    assert page.text("notice") == ""


@on_desk_and_phone
def test_zoom_and_divider(page, six):
    page.add(*six[:2])
    page.wait_until_done()
    fitted, handle = page.box("layer"), page.box("line")
    page.click("[data-zoom='1.5']")
    assert page.box("layer")["width"] == pytest.approx(1.5 * fitted["width"], rel=0.01)
    page.keys("++")
    assert page.text("scale") == "2.3 \N{MULTIPLICATION SIGN}"
    left = page.box("layer")["left"]
    page.keys("\ue014")  # the right arrow
    assert page.box("layer")["left"] < left
    # The divider keeps its size and its place, and divides what is seen.
    assert page.box("line") == handle
    page.set("divider", 50)
    frame, line = page.box("frame"), page.box("line")
    assert line["width"] == handle["width"]
    middle = frame["left"] + frame["width"] / 2
    assert (line["left"] + line["right"]) / 2 == pytest.approx(middle, abs=0.1)
    clip = page.script("return document.getElementById('vessels').style.clipPath")
    share = float(clip.split()[-1].strip("%)")) / 100
    layer = page.box("layer")
    edge = layer["left"] + share * layer["width"]
    assert edge == pytest.approx(middle, abs=1)
    page.drag("line", frame["width"] / 4)
    assert int(page.value("divider")) == pytest.approx(75, abs=2)
    # Each photograph is fitted when it is shown.
    page.select("bert.png")
    assert page.text("scale") == "1.0 \N{MULTIPLICATION SIGN}"
    page.select("anna.png")
    assert page.text("scale") == "1.0 \N{MULTIPLICATION SIGN}"
    page.keys("+")
    page.keys("0")
    assert page.box("layer") == fitted


@on_desk_and_phone
def test_pinch_and_pan(page, six, width):
    page.add(six[0])
    page.wait_until_done()
    page.set("divider", 0)
    page.driver.execute_script("document.getElementById('frame').scrollIntoView()")
    if width == 390:
        page.pinch("frame", 2)
    else:
        page.wheel("frame", -300)
    scale = float(page.text("scale").split()[0])
    assert scale == pytest.approx(2, abs=0.3)
    assert page.script("return visualViewport.scale") == 1  # the page itself is not zoomed
    before, scrolled = page.box("layer"), page.script("return scrollY")
    page.drag("frame", 40, 30)
    after = page.box("layer")
    assert after["left"] - before["left"] == pytest.approx(40, abs=2)
    assert after["top"] - before["top"] == pytest.approx(30, abs=2)
    assert page.script("return scrollY") == scrolled


def test_models_are_called_by_what_they_are_for(page, six):
    assert page.options("model") == ["narrow", "Any camera (built in)"]
    page.add(*six[:2])
    page.wait_until_done()
    page.choose("model", "Any camera (built in)")
    wait_for(lambda: "Any camera (built in)" in page.text("facts"))
    page.wait_until_done()
    assert page.chosen("model") == "Any camera (built in)"
    page.select("bert.png")  # it keeps its own
    assert page.chosen("model") == "narrow"
    assert " · narrow · " in page.text("facts")
    page.select("anna.png")
    page.click("#for-all")
    page.wait_until_done()
    page.select("bert.png")
    assert " · Any camera (built in) · " in page.text("facts")
    assert not page.is_shown("for-all")
    page.click("#missing summary")
    missing = page.text("missing")
    assert "Like DRIVE\nvesselseg download unet_s5-d16_drive\n" in missing


def test_the_bits_of_a_16_bit_photograph_stand_under_more(page, photograph, tmp_path):
    Image.fromarray(twelve_bits(photograph[..., 1])).save(tmp_path / "deep.png")
    page.add(tmp_path / "deep.png")
    page.wait_until_done()
    assert not page.is_shown("bits")
    assert "If they use 12 bits" in page.text("warnings")
    page.click("#warnings button")
    page.wait_until_done()
    assert "If they use 12 bits" not in page.text("warnings")
    page.click("#more summary")
    assert page.chosen("bits") == "12, up to 4095"
    page.choose("bits", "as the file says")
    wait_for(lambda: "If they use 12 bits" in page.text("warnings"))


def test_sliders_send_no_requests(page, six):
    page.add(six[0])
    page.wait_until_done()
    before = page.requests()
    for slider, value in (("threshold", 0.8), ("opacity", 0.25), ("divider", 50)):
        page.set(slider, value)
    assert page.requests() == before


def test_the_page_sends_requests_only_to_its_server(page, six):
    page.driver.get_log("browser")  # of earlier tests
    page.add(six[0])
    page.wait_until_done()
    names = page.requests()
    segmented = [name for name in names if "/segment?" in name]
    assert segmented == [f"{page.url}/segment?model=narrow&bits="]  # no name of a file
    assert all(name.startswith((page.url, "data:", "blob:" + page.url)) for name in names)
    # Where the browser would tell what it rejected or could not load.
    assert [entry for entry in page.driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_page_works_below_the_path_of_a_proxy(network, open_page, six):
    with served(network, max_upload=LIMIT, root_path="/vessels") as url:
        page = open_page(f"{url}/vessels")  # without a slash at the end
        page.add(six[0])
        page.wait_until_done()
        assert page.is_shown("vessels")
        assert all("/vessels/" in name for name in page.requests() if name.startswith(url))


def test_a_server_that_is_gone_is_reported_at_the_photograph(network, open_page, six):
    with served(network, max_upload=LIMIT) as url:
        page = open_page(url)
    page.add(six[0])
    wait_for(lambda: page.text("error").startswith("vesselseg does not answer."))
    assert page.text("name") == "anna.png"
    with served(network, max_upload=LIMIT, port=int(url.rpartition(":")[2])):
        page.click("#again")
        page.wait_until_done()
        assert page.text("error") == ""
        assert page.is_shown("vessels")


def test_results_are_forgotten_when_the_page_is_left(page, six):
    page.add(six[0])
    page.wait_until_done()
    mask = f"{page.url}/results/{page.token()}/mask.png"
    assert requests.get(mask, timeout=30).status_code == 200
    page.driver.get("about:blank")
    wait_for(lambda: requests.get(mask, timeout=30).status_code == 404)


@on_desk_and_phone
def test_nothing_is_wider_than_the_window_and_the_picture_comes_first(page, six, width):
    page.add(*six[:3])
    page.wait_until_done()
    overflow = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.script(overflow)
    if width == 390:
        tops = [page.box(name)["top"] for name in ("name", "frame", "files", "controls")]
        assert tops == sorted(tops)
