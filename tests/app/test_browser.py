"""The page of the real command in a real browser, from the photograph to the file."""

import base64
import io
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
from browser import chromium
from support import EXAMPLE


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
    """The page with the example photograph, segmented."""
    driver = chromium(folder)
    try:
        driver.get(address)
        wait(lambda: driver.find_elements("css selector", "#model option"))
        driver.find_element("id", "file").send_keys(str(EXAMPLE))
        wait(lambda: driver.find_element("id", "vessels").is_displayed())
        yield driver
    finally:
        driver.quit()


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


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_mask_shown_and_downloaded_is_the_librarys(driver, folder, expected, tmp_path, threshold):
    move(driver, "threshold", threshold)
    mask = expected[threshold].mask
    assert 0.05 < mask.mean() < 0.2
    np.testing.assert_array_equal(shown(driver)[..., 3] == 255, mask)
    expected[threshold].save(tmp_path / "mask.png")
    assert downloaded(driver, folder, "mask.png") == (tmp_path / "mask.png").read_bytes()


def test_colour_is_the_librarys(driver, expected):
    move(driver, "threshold", 0.5)
    mask, overlay = expected[0.5].mask, np.asarray(expected[0.5].overlay(opacity=1))
    np.testing.assert_array_equal(shown(driver)[mask][:, :3], overlay[mask])


def test_sliders_ask_the_server_nothing(driver):
    def asked():
        return driver.execute_script("return performance.getEntriesByType('resource').length")

    before = asked()
    for slider, value in (("threshold", 0.8), ("opacity", 0.25), ("divider", 50)):
        move(driver, slider, value)
    assert asked() == before
    style = "return document.getElementById('vessels').style"
    assert driver.execute_script(f"{style}.opacity") == "0.25"
    assert driver.execute_script(f"{style}.clipPath") == "inset(0px 0px 0px 50%)"


def test_only_the_server_itself_was_asked(driver, address):
    names = driver.execute_script(
        "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    )
    assert [name for name in names if "/segment?" in name] == [f"{address}segment?model="
        + vesselseg.list_models()[0].name]  # fmt: skip
    assert all(name.startswith((address, "data:", "blob:" + address)) for name in names)
    # Where the browser would tell what it rejected or could not load.
    assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_downloaded_overlay_has_the_opacity_that_is_set(driver, folder, expected):
    move(driver, "threshold", 0.5)
    move(driver, "opacity", 0.25)
    with Image.open(io.BytesIO(downloaded(driver, folder, "overlay.png"))) as image:
        np.testing.assert_array_equal(image, expected[0.5].overlay(opacity=0.25))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("'no image'", "notes.jpg: the 8 bytes given could not be decoded"),
        ("new Uint8Array(50e6 + 1)", "notes.jpg: has 50.0 MB; at most 50 MB are taken"),
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
    assert not driver.find_element("id", "vessels").is_displayed()
    assert not driver.find_element("css selector", "[data-file='mask.png']").is_enabled()


def test_result_is_forgotten_when_the_page_is_left(driver):
    driver.find_element("id", "file").send_keys(str(EXAMPLE))
    wait(lambda: driver.find_element("id", "vessels").is_displayed())
    file = driver.find_element("id", "photograph").get_attribute("src")
    assert requests.get(file, timeout=30).status_code == 200
    driver.get("about:blank")
    wait(lambda: requests.get(file, timeout=30).status_code == 404)
