"""What the page asks of its server, asked without a browser."""

import hashlib
import io
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from support import EXAMPLE, wait_for
from support.app import encoded, served
from support.dicom import dicom_file
from support.drawn import twelve_bits

pytest.importorskip("starlette", reason="the extra app is not installed")
pytest.importorskip("uvicorn", reason="the extra app is not installed")
import vesselseg
from vesselseg import UnknownModelError, formats, list_models
from vesselseg.app import server
from vesselseg.app.server import OfferedModels
from vesselseg.result import read_provenance

PAGE = Path(server.__file__).parent / "page"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def page(model):
    """The address of a page, and every image that its network was given."""
    asked = []

    def counted(image, **options):
        asked.append(image)
        return model(image, **options)

    with served(counted, hosts=("127.0.0.1", "localhost", "::1")) as url:
        yield url, asked


@pytest.fixture
def asked(page):
    """Every image that the network was given in this test."""
    page[1].clear()
    return page[1]


@pytest.fixture
def url(page):
    return page[0]


@pytest.fixture
def content():
    """A part of the example photograph as a file, of which there is nothing to warn."""
    with Image.open(EXAMPLE) as image:
        return encoded(np.asarray(image.reduce(5))[:150, :130])


def segmented(url, content, **query):
    answer = requests.post(f"{url}/segment", params=query, data=content, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def connected(url):
    host, port = url.removeprefix("http://").rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=30)


def result_of(url, token, file, **query):
    return requests.get(f"{url}/results/{token}/{file}", params=query, timeout=30)


def test_the_file_chooser_offers_the_formats_of_the_table(model, monkeypatch):
    monkeypatch.setitem(formats.READABLE, "TGA", (".tga",))
    with served(model) as url:
        (accepted,) = re.findall(r'accept="(.*?)"', requests.get(url, timeout=30).text)
    assert accepted.split(",") == list(formats.endings())
    assert {".jpg", ".dcm", ".tga"} <= set(formats.endings())


def test_downloads_are_the_librarys_own_files(url, model, content, asked, tmp_path):
    found = segmented(url, content)
    assert (found["height"], found["width"]) == (150, 130)
    for threshold in (0.5, 0.52):
        result = model(content, threshold=threshold)
        result.provenance["input_version"] = hashlib.sha256(content).hexdigest()
        assert 0.01 < result.mask.mean() < 0.99
        for kind in ("mask", "overlay", "probability", "fov"):
            result.save(tmp_path / "own.png", kind)
            answer = result_of(url, found["token"], f"{kind}.png", threshold=threshold)
            assert answer.content == (tmp_path / "own.png").read_bytes()
            assert answer.headers["content-type"] == "image/png"
    look = {"opacity": 0.25, "style": "outline"}
    answer = result_of(url, found["token"], "overlay.png", **look, color="ff8000")
    with Image.open(io.BytesIO(answer.content)) as image:
        expected = model(content).overlay(**look, color=(255, 128, 0))
        np.testing.assert_array_equal(image, expected)
    assert len(asked) == 1  # whatever is asked afterwards, the network runs once


def test_page_gets_the_photograph_and_exact_probabilities(url, model, content):
    token = segmented(url, content)["token"]
    photograph = result_of(url, token, "photograph.png").content
    with Image.open(io.BytesIO(content)) as sent, Image.open(io.BytesIO(photograph)) as back:
        np.testing.assert_array_equal(back, sent)
    floats = result_of(url, token, "probability.f32").content
    own = model(content).probability
    np.testing.assert_array_equal(np.frombuffer(floats, "<f4").reshape(own.shape), own)


def test_results_are_forgotten_when_the_page_says_so(url, content):
    tokens = [segmented(url, content)["token"] for _ in range(3)]
    body = "\n".join(["no-such-token", *tokens[:2]])
    assert requests.post(f"{url}/forget", data=body, timeout=30).status_code == 204
    statuses = [result_of(url, token, "mask.png").status_code for token in tokens]
    assert statuses == [404, 404, 200]


def test_the_results_used_last_stay_as_far_as_the_memory_goes(model, content):
    with served(model, memory=3 * 9 * 150 * 130) as url:
        first, *others = (segmented(url, content)["token"] for _ in range(3))
        assert result_of(url, first, "mask.png").status_code == 200
        fourth = segmented(url, content)["token"]
        statuses = [result_of(url, each, "mask.png").status_code for each in (first, *others)]
        assert statuses == [200, 404, 200]
        gone = result_of(url, others[0], "mask.png")
        assert gone.text.endswith("Segment the photograph again.")
        assert result_of(url, fourth, "mask.png").status_code == 200


@pytest.mark.slow
def test_rows_are_those_of_the_librarys_tables(url, model, content, tmp_path):
    (tmp_path / "eye.png").write_bytes(content)
    rows = []
    vesselseg.segment_folder(
        tmp_path / "eye.png", tmp_path / "out", model=model, kinds=("mask", "overlay"),
        threshold=0.52, measure=True, on_row=rows.append, progress=False,
    )  # fmt: skip
    token = segmented(url, content)["token"]
    measured, row = (
        result_of(url, token, f"{table}.json", threshold=0.52).json()
        for table in ("measures", "row")
    )
    names = ("input", "mask", "overlay", "seconds")  # the page fills in those of files
    expected = {name: value for name, value in rows[0].items() if name not in names}
    assert list(measured) == list(rows[0])
    assert {name: value for name, value in measured.items() if name not in names} == expected
    assert "density" in measured
    assert row == {name: measured[name] for name in list(measured)[: len(row)]}
    assert list(row)[-1] == "seconds"


@pytest.mark.slow
def test_measures_are_drawn_and_listed_as_the_library_has_them(url, model, content, asked):
    token = segmented(url, content)["token"]
    query = {"threshold": 0.52, "mm_per_pixel": 0.01, "color_by": "segment"}
    measures = model(content, threshold=0.52).measure(mm_per_pixel=0.01)
    table = result_of(url, token, "table.json", **query).json()
    assert [row["name"] for row in table] == list(measures.to_dict())
    for row in table:
        value = getattr(measures, row["name"])
        assert row["value"] == (float(f"{value:.6g}") if isinstance(value, float) else value)
        assert row["definition"]
    drawn = result_of(url, token, "measures.png", **query).content
    with Image.open(io.BytesIO(drawn)) as picture:
        np.testing.assert_array_equal(picture, measures.overlay(color_by="segment"))
    provenance = read_provenance(io.BytesIO(drawn))
    assert (provenance["color_by"], provenance["mm_per_pixel"]) == ("segment", 0.01)
    assert "length_mm" not in result_of(url, token, "table.json").text
    assert len(asked) == 1  # whatever is asked of its result, the network runs once


@pytest.mark.slow
def test_nothing_is_written_to_disk(url, photograph, tmp_path, monkeypatch):
    # Python and Numba keep what they compile, unless that is done already.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    vesselseg.measure(np.eye(40, dtype=bool))
    content = encoded(photograph[50:110, 50:110])
    # Whatever opens a file to write, in whichever thread of this process, is an audit event.
    written = []

    def audit(event, arguments):
        if event == "open" and active and isinstance(arguments[1], str):
            written.extend([arguments[0]] if set(arguments[1]) & set("wax+") else [])

    active = True
    sys.addaudithook(audit)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for _ in range(2):  # the first time, Numba looks where it could keep what it compiles
        written.clear()
        token = segmented(url, content)["token"]
        for file in (
            "photograph.png",
            "mask.png",
            "overlay.png",
            "row.json",
            "measures.json",
            "measures.png",
        ):
            assert result_of(url, token, file).ok
    active = False
    assert written == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        ("segment", b"no image", "The file could not be decoded"),
        ("segment", b"", "The file is empty"),
        ("segment?model=unet", b"x", "'unet' is not on this machine. Available are: narrow"),
    ],
)
def test_errors_of_the_library_are_reported(url, path, content, told):
    answer = requests.post(f"{url}/{path}", data=content, timeout=30)
    assert (answer.status_code, told in answer.text) == (400, True)
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("file", "query", "status", "told"),
    [
        ("overlay.png", {"threshold": "2"}, 400, "threshold is 2.0; it must be"),
        ("overlay.png", {"threshold": "nan"}, 400, "threshold is nan; it must be"),
        ("overlay.png", {"threshold": "half"}, 400, "threshold is 'half'; it must be"),
        ("overlay.png", {"opacity": "-1"}, 400, "opacity is -1.0; it must be"),
        ("overlay.png", {"color": "#fff"}, 400, "color is '#fff'; it must be six hexadecimal"),
        ("table.json", {"mm_per_pixel": "0"}, 400, "mm_per_pixel is 0.0; it must be"),
        ("measures.png", {"color_by": "length"}, 400, "color_by is 'length'; allowed are"),
        ("overlay.png", {"style": "dots"}, 400, "style is 'dots'; allowed are"),
        ("seg.dcm", {}, 400, "The source is no DICOM file"),
        ("edges.png", {}, 400, "There is no 'edges.png'; there are photograph.png, "),
    ],
)
def test_invalid_numbers_and_files_are_reported(url, content, file, query, status, told):
    answer = result_of(url, segmented(url, content)["token"], file, **query)
    assert (answer.status_code, told in answer.text) == (status, True)


@pytest.mark.parametrize("how", ["length announced", "in chunks"])
def test_larger_files_are_rejected(url, how, asked):
    content = b"x" * 100_001
    data = content if how == "length announced" else iter([content[:60_000], content[60_000:]])
    answer = requests.post(f"{url}/segment", data=data, timeout=30)
    assert answer.status_code == 413
    assert answer.text.startswith("The file is larger than 0.1 MB")
    assert asked == []


def test_unexpected_errors_are_reported_without_details():
    def broken(content, **_):
        raise RuntimeError(f"/a/path/of/the/server: {content}")

    with served(broken) as url:
        answer = requests.post(f"{url}/segment", data=b"x", timeout=30)
    assert answer.status_code == 500
    assert answer.text == "Unexpected error: RuntimeError. The terminal shows more."
    assert answer.headers["cache-control"] == "no-store"


def test_the_page_names_no_other_host_and_its_policy_forbids_them(url):
    disclaimers = 0
    scripts = [path.name for path in PAGE.glob("*.js")]
    assert "page.js" in scripts
    for path in ("", "page.css", *scripts, "settings"):
        answer = requests.get(f"{url}/{path}", timeout=30)
        assert answer.status_code == 200
        assert not re.search(r"(https?|wss?):|[\"'(=]\s*//|@import|<iframe", answer.text), path
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "//" not in policy
        assert answer.headers["cache-control"] == "no-store"
        disclaimers += answer.text.count("not a medical device")
    assert disclaimers == 1


def test_other_web_sites_cannot_ask_through_the_browser(url, content, asked):
    for headers, status in (
        ({"Origin": "https://example.org"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[bad"}, 403),
        ({"Host": "example.org"}, 400),
        ({"Host": "example.org:80"}, 400),
    ):
        answer = requests.post(f"{url}/segment", data=content, headers=headers, timeout=30)
        assert answer.status_code == status
        assert answer.headers["cache-control"] == "no-store"
    assert asked == []
    for headers in ({"Origin": url}, {"Host": "[::1]:80"}, {"Host": "localhost"}):
        answer = requests.post(f"{url}/segment", data=content, headers=headers, timeout=30)
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("headers", "option"),
    [
        ({"Host": "eye.example:80"}, "--allow-host eye.example"),
        ({"Origin": "https://eye.example"}, "--allow-host eye.example"),
        ({"Host": "a b"}, None),
        ({"Origin": "null"}, None),
    ],
)
def test_a_refusal_names_the_option_that_allows_it(url, headers, option):
    answer = requests.get(url, headers=headers, timeout=30)
    assert answer.status_code in (400, 403)
    assert answer.headers["content-type"].startswith("text/plain")
    if option:
        assert answer.text.endswith(f"allow it: vesselseg app {option}")
    else:
        assert "--allow-host" not in answer.text


@pytest.mark.parametrize("host", ["eye.example", "EYE.example:8443", "127.0.0.1:8000"])
def test_behind_a_proxy_that_is_allowed(model, content, host):
    """Some proxies pass on the name that the browser asked for, and others use their own."""
    with served(model, hosts=("127.0.0.1",), proxies=("eye.example",)) as url:
        headers = {"Host": host, "Origin": "https://eye.example"}
        answer = requests.post(f"{url}/segment", data=content, headers=headers, timeout=30)
        assert answer.status_code == 200
        for other in ({**headers, "Host": "other.example"}, {"Origin": "https://other.example"}):
            answer = requests.post(f"{url}/segment", data=content, headers=other, timeout=30)
            assert answer.status_code in (400, 403)


@pytest.mark.parametrize("prefix", ["", "/vessels"])
def test_a_proxy_may_keep_its_path_or_take_it_off(model, content, prefix):
    with served(model, root_path="/vessels") as url:
        page = requests.get(f"{url}{prefix}/", timeout=30).text
        assert '<base href="/vessels/">' in page
        assert requests.get(f"{url}{prefix}/page.js", timeout=30).status_code == 200
        token = segmented(f"{url}{prefix}", content)["token"]
        assert result_of(f"{url}{prefix}", token, "mask.png").status_code == 200
        assert requests.get(f"{url}/vessels", allow_redirects=False, timeout=30).text == page


def test_a_malformed_host_is_rejected_with_the_headers_of_every_answer(url):
    with connected(url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: bad[\r\n\r\n")
        answer = connection.recv(2000)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"content-security-policy" in answer


@pytest.fixture
def held(model):
    """A page whose network waits until `go` is set; `running` says that it was reached."""
    running, go, seen = threading.Event(), threading.Event(), []

    def wait(content, **options):
        seen.append(content)
        running.set()
        assert go.wait(30)
        return model(content, **options)

    with served(wait) as url:
        yield url, running, go, seen
        go.set()


@pytest.mark.slow
def test_the_page_and_a_full_queue_answer_at_once(held, content):
    url, _, go, _ = held

    def send():
        answer = requests.post(f"{url}/segment", data=content, timeout=30)
        assert ("retry-after" in answer.headers) == (answer.status_code == 503)
        return answer.status_code

    with ThreadPoolExecutor(20) as senders:
        answers = [senders.submit(send) for _ in range(20)]
        assert next(as_completed(answers)).result() == 503
        assert requests.get(url, timeout=30).status_code == 200
        go.set()
        assert {answer.result() for answer in answers} == {200, 503}


@pytest.mark.slow
def test_a_photograph_whose_sender_has_gone_is_not_computed(held, content):
    url, running, go, seen = held
    with ThreadPoolExecutor(1) as senders:
        first = senders.submit(segmented, url, content)
        assert running.wait(30)
        with connected(url) as connection:
            head = f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
            connection.sendall(head.encode() + content)
        time.sleep(2)  # the server looks twice a second whether the sender is still there
        go.set()
        first.result()
        assert segmented(url, content)
    assert len(seen) == 2


@pytest.mark.slow
def test_the_network_stops_when_the_sender_goes_away(model, content):
    """A photograph of many windows, of which the first is computed when the sender leaves."""
    begun, gone, ended = threading.Event(), threading.Event(), []

    def slow(content, *, progress, **options):
        def wait(done, total):
            begun.set()
            assert gone.wait(30)
            time.sleep(0.1)
            progress(done, total)

        try:
            return model(content, progress=wait, **options)
        except Exception as error:
            ended.append(error)
            raise

    with served(slow) as url:
        with connected(url) as connection:
            head = f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
            connection.sendall(head.encode() + content)
            assert begun.wait(30)
        gone.set()
        wait_for(lambda: ended)
        assert requests.get(f"{url}/settings", timeout=30).status_code == 200


def test_dicom_photographs_are_segmented_like_others(url, photograph):
    part = photograph[:150, :130]
    png, dicom = segmented(url, encoded(part)), segmented(url, dicom_file(part, PatientID="4711"))
    assert dicom["provenance"].pop("input_version") != png["provenance"].pop("input_version")
    assert dicom["provenance"] == png["provenance"]
    assert (dicom["is_dicom"], png["is_dicom"]) == (True, False)
    assert "4711" not in str(dicom)
    from pydicom import dcmread

    answer = result_of(url, dicom["token"], "seg.dcm")
    assert answer.headers["content-type"] == "application/dicom"
    assert dcmread(io.BytesIO(answer.content)).PatientID == "4711"
    answer = requests.post(f"{url}/segment", data=dicom_file(part)[:400], timeout=30)
    assert answer.status_code == 400
    assert "DICOM file whose header cannot be read" in answer.text


def test_warnings_of_the_library_are_returned(url):
    answer = segmented(url, encoded(np.full((50, 60, 3), 128, np.uint8)))
    assert "No field of view was found" in answer["provenance"]["warning"]
    assert "is flat" in answer["provenance"]["warning"]


def test_significant_bits_of_a_16_bit_photograph_can_be_chosen(url, photograph):
    grey = photograph[:150, :130, 1]
    deep = encoded(twelve_bits(grey))
    assert "If they use 12 bits" in segmented(url, deep)["provenance"]["warning"]
    found = segmented(url, deep, bits=12)
    masks = [
        result_of(url, result["token"], "probability.f32").content
        for result in (found, segmented(url, encoded(grey)))
    ]
    assert masks[0] == masks[1]
    assert found["provenance"]["bits"] == 12


class TestOfferedModels:
    EMBEDDED, CACHED, ABSENT = (spec.name for spec in list_models()[:3])

    @pytest.fixture
    def loaded(self, monkeypatch):
        """Names of the models that were loaded, where the cache holds two."""
        here = (self.EMBEDDED, self.CACHED)
        monkeypatch.setattr(server, "find_cached", lambda spec: spec.name in here)
        return []

    @pytest.fixture
    def models(self, loaded):
        def load(model):
            loaded.append(model)
            return f"model {model}"

        return OfferedModels("model given", "given (eye.pth)", load)

    def test_the_given_model_and_then_cached_models_are_offered(self, models, loaded):
        assert models.names() == ["given (eye.pth)", self.EMBEDDED, self.CACHED]
        assert OfferedModels("x", self.CACHED, None).names() == [self.CACHED, self.EMBEDDED]
        assert loaded == []

    def test_models_are_among_the_settings(self, url):
        settings = requests.get(f"{url}/settings", timeout=30).json()
        own, embedded, *others = settings["models"]
        assert own == {"name": "narrow", "label": "narrow", "downloaded": True}
        assert embedded == {
            "name": self.EMBEDDED, "label": "Any camera (built in)", "downloaded": True
        }  # fmt: skip
        labels = {each["name"]: each["label"] for each in others if not each["downloaded"]}
        assert labels["unet_s5-d16_drive"] == "Like DRIVE"
        assert labels["unet_s5-d16_chase_db1"] == "Like CHASE_DB1"
        assert labels["unet_s5-d16_pspnet_ce-dice_hrf"] == "Like HRF (PSPNet, ce+dice)"
        assert len(set(labels.values())) == len(labels) == len(list_models()) - 1
        assert settings["max_upload"] == 100_000

    def test_each_model_is_loaded_once_when_it_is_chosen(self, models, loaded):
        for name in ("", "given (eye.pth)"):
            assert models.get(name) == "model given"
        for name in (self.CACHED, "", self.CACHED, self.EMBEDDED, self.EMBEDDED):
            assert models.get(name) == f"model {name or 'given'}"
        assert loaded == [self.CACHED, self.EMBEDDED]

    def test_a_model_that_is_not_cached_is_rejected_and_not_downloaded(self, models, loaded):
        with pytest.raises(UnknownModelError, match=f"'{self.ABSENT}' is not on this machine"):
            models.get(self.ABSENT)
        assert loaded == []
