"""The page of the real command in a real browser, from the photograph to the file."""

import base64
import io
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import requests
from PIL import Image

import vesselseg

pytest.importorskip("starlette", reason="the extra app is not installed")
pytest.importorskip("uvicorn", reason="the extra app is not installed")
from support import EXAMPLE
from support.drawn import twelve_bits


@pytest.fixture(scope="module")
def address():
    """Of `vesselseg app`, in a process of its own."""
    command = [sys.executable, "-W", "error", "-m", "vesselseg", "app", "--port", "0"]
    with subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, text=True) as app:
        yield app.stdout.readline().split()[1]
        app.terminate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def driver(address, folder):
    """The page with the example photograph, segmented, in a Chromium that finds no other host."""
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
        "disable-sync", "window-size=1280,900", f"user-data-dir={folder / 'profile'}",
        "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=chromedriver)
    with webdriver.Chrome(options=options, service=service) as driver:
        driver.get(address)
        wait(lambda: driver.find_elements("css selector", "#model option"))
        driver.find_element("id", "file").send_keys(str(EXAMPLE))
        wait(lambda: driver.find_element("id", "vessels").is_displayed())
        yield driver


@pytest.fixture(scope="module")
def expected():
    """What the library gives, by threshold."""
    model = vesselseg.load_model(device="cpu")
    return {threshold: model(EXAMPLE, threshold=threshold) for threshold in (0.5, 0.3)}


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return answer


def move(driver, slider, value):
    driver.execute_script(
        "const x = document.getElementById(arguments[0]); x.value = arguments[1];"
        "x.dispatchEvent(new Event('input'))", slider, value,
    )  # fmt: skip


def shown(driver):
    """The canvas that lies over the photograph, (H, W, 4) uint8."""
    values = driver.execute_script(
        "const c = document.getElementById('vessels');"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "let s = ''; for (let i = 0; i < d.length; i += 8192)"
        " s += String.fromCharCode(...d.subarray(i, i + 8192));"
        "return [c.width, c.height, btoa(s)]"
    )
    width, height, content = values
    pixels = np.frombuffer(base64.b64decode(content), np.uint8)
    return pixels.reshape(height, width, 4)


def downloaded(driver, folder, file):
    driver.find_element("css selector", f"[data-file='{file}']").click()
    path = folder / f"{EXAMPLE.stem}_{file}"
    wait(lambda: path.exists() and path.stat().st_size)
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.mark.slow
@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_the_displayed_and_downloaded_mask_equals_that_of_the_library(
    driver, folder, expected, tmp_path, threshold
):
    move(driver, "threshold", threshold)
    result = expected[threshold]
    assert 0.05 < result.mask.mean() < 0.2
    pixels, overlay = shown(driver), np.asarray(result.overlay(opacity=1))
    np.testing.assert_array_equal(pixels[..., 3] == 255, result.mask)
    np.testing.assert_array_equal(pixels[result.mask][:, :3], overlay[result.mask])
    result.save(tmp_path / "mask.png")
    assert downloaded(driver, folder, "mask.png") == (tmp_path / "mask.png").read_bytes()
    share = float(driver.find_element("id", "share").text.split()[0])
    assert share == pytest.approx(100 * result.vessel_fraction(), abs=0.06)


def test_sliders_send_no_requests(driver):
    def asked():
        return driver.execute_script("return performance.getEntriesByType('resource').length")

    before = asked()
    for slider, value in (("threshold", 0.8), ("opacity", 0.25), ("divider", 50)):
        move(driver, slider, value)
    assert asked() == before
    style = "return document.getElementById('vessels').style"
    assert driver.execute_script(f"{style}.opacity") == "0.25"
    assert driver.execute_script(f"{style}.clipPath") == "inset(0px 0px 0px 50%)"


def test_the_page_sends_requests_only_to_its_server(driver, address):
    names = driver.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    model = vesselseg.list_models()[0].name
    segmented = [name for name in names if "/segment?" in name]
    assert segmented == [f"{address}segment?model={model}&bits="]
    assert all(name.startswith((address, "data:", "blob:" + address)) for name in names)
    # Where the browser would tell what it rejected or could not load.
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_downloaded_overlay_has_the_chosen_opacity(driver, folder, expected):
    move(driver, "threshold", 0.5)
    move(driver, "opacity", 0.25)
    with Image.open(io.BytesIO(downloaded(driver, folder, "overlay.png"))) as image:
        np.testing.assert_array_equal(image, expected[0.5].overlay(opacity=0.25))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("'no image'", "notes.jpg: the 8 bytes given could not be decoded"),
        ("new Uint8Array(50e6 + 1)", "notes.jpg: has 50.0 MB; at most 50 MB are accepted"),
    ],
)
def test_dropped_file_that_is_not_accepted_is_reported(driver, content, told):
    driver.execute_script(
        "const dropped = new DataTransfer();"
        f"dropped.items.add(new File([{content}], 'notes.jpg'));"
        "document.body.dispatchEvent("
        " new DragEvent('drop', {dataTransfer: dropped, bubbles: true, cancelable: true}))"
    )
    wait(lambda: driver.find_element("id", "error").text.startswith(told))
    assert driver.find_element("id", "vessels").is_displayed()  # the last result stays
    assert driver.find_element("css selector", "[data-file='mask.png']").is_enabled()


def test_the_divider_is_dragged_on_the_picture(driver):
    from selenium.webdriver import ActionChains

    move(driver, "divider", 50)
    line = driver.find_element("id", "line")
    width = driver.find_element("id", "photograph").size["width"]
    ActionChains(driver).drag_and_drop_by_offset(line, -width // 4, 0).perform()
    value = int(driver.find_element("id", "divider").get_attribute("value"))
    assert 23 <= value <= 27
    move(driver, "divider", 0)


def test_the_picture_can_be_zoomed_and_fitted_again(driver):
    def width():
        return driver.execute_script(
            "return document.getElementById('photograph').getBoundingClientRect().width"
        )

    before = width()
    driver.find_element("css selector", "[data-zoom='1.5']").click()
    assert width() == pytest.approx(1.5 * before, rel=0.01)
    driver.find_element("css selector", "[data-zoom='0']").click()
    assert width() == pytest.approx(before, rel=0.01)


def test_probabilities_are_shown_as_grey(driver, expected):
    def show(kind):
        driver.execute_script(
            "const s = document.getElementById('show'); s.value = arguments[0];"
            "s.dispatchEvent(new Event('input'))", kind,
        )  # fmt: skip

    show("probability")
    grey = np.floor(expected[0.5].probability * 255 + 0.5)
    np.testing.assert_allclose(shown(driver)[..., 0], grey, atol=1)
    show("overlay")


def test_the_example_joins_the_list_and_each_result_can_be_shown_again(driver):
    def width():
        return driver.execute_script("return document.getElementById('vessels').width")

    driver.find_element("id", "example").click()
    wait(lambda: len(driver.find_elements("css selector", "#files button:enabled")) == 2)
    first, second = driver.find_elements("css selector", "#files button")
    assert (first.text, second.text, width()) == (EXAMPLE.name, "example.jpg", 1000)
    first.click()
    wait(lambda: width() == 1411)


def test_warnings_of_the_library_are_shown(driver, folder):
    Image.new("RGB", (60, 50), "gray").save(folder / "grey.png")
    driver.find_element("id", "file").send_keys(str(folder / "grey.png"))
    wait(lambda: "No field of view was found" in driver.find_element("id", "warnings").text)


def test_the_bits_of_a_16_bit_photograph_can_be_chosen(driver, folder):
    with Image.open(EXAMPLE) as opened:
        grey = np.asarray(opened.convert("L").reduce(4))
    Image.fromarray(twelve_bits(grey)).save(folder / "deep.png")
    driver.find_element("id", "file").send_keys(str(folder / "deep.png"))
    wait(lambda: "If they use 12 bits" in driver.find_element("id", "warnings").text)
    choose = "const s = document.getElementById('bits'); s.value = arguments[0];"
    driver.execute_script(f"{choose} s.dispatchEvent(new Event('change'))", "12")
    wait(lambda: driver.execute_script("return current.result.provenance.bits") == 12)
    assert "If they use 12 bits" not in driver.find_element("id", "warnings").text
    driver.execute_script(choose, "")


def test_on_a_phone_the_picture_comes_before_the_settings(driver):
    driver.set_window_size(500, 900)
    places = [driver.find_element("id", name).location["y"] for name in ("view", "controls")]
    assert places == sorted(places)
    overflow = "return document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not driver.execute_script(overflow)
    driver.set_window_size(1280, 900)


def test_result_is_forgotten_when_the_page_is_left(driver, address):
    token = driver.execute_script("return current.result.token")
    file = f"{address}results/{token}/mask.png"
    assert requests.get(file, timeout=30).status_code == 200
    driver.get("about:blank")
    wait(lambda: requests.get(file, timeout=30).status_code == 404)
