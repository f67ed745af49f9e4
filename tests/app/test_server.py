"""What the page asks of its server, asked without a browser."""

import io
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from PIL import Image

pytest.importorskip("starlette", reason="the extra app is not installed")
pytest.importorskip("uvicorn", reason="the extra app is not installed")
from serving_app import served

from vesselseg.app import server
from vesselseg.app.memory import OfferedModels
from vesselseg.app.server import make_app

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def asked():
    """Every image that the network was given."""
    return []


@pytest.fixture
def url(model, asked):
    class Counting(type(model)):
        def __call__(self, image, **options):
            asked.append(image)
            return super().__call__(image, **options)

    counting = object.__new__(Counting)
    counting.__dict__.update(model.__dict__)

    def load(name):
        raise AssertionError(f"{name} was loaded")

    with served(make_app(OfferedModels(counting, "narrow", load), max_upload=100_000,
                         hosts=("127.0.0.1", "localhost"))) as url:  # fmt: skip
        yield url


@pytest.fixture
def content(photograph):
    """The photograph as a file."""
    stream = io.BytesIO()
    Image.fromarray(photograph[:150, :130]).save(stream, format="PNG")
    return stream.getvalue()


def segmented(url, content):
    answer = requests.post(f"{url}/segment", data=content, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_downloads_are_the_librarys_own_files(url, model, content, tmp_path):
    found = segmented(url, content)
    assert (found["height"], found["width"]) == (150, 130)
    for threshold in (0.5, 0.52):
        result = model(content, threshold=threshold)
        assert 0.01 < result.mask.mean() < 0.99
        for kind in ("mask", "overlay", "probability"):
            result.save(tmp_path / "own.png", kind)
            query = f"?threshold={threshold}"
            answer = requests.get(f"{url}/results/{found['token']}/{kind}.png{query}", timeout=30)
            assert answer.content == (tmp_path / "own.png").read_bytes()
            assert answer.headers["content-type"] == "image/png"


def test_overlay_has_the_opacity_that_was_asked_for(url, model, content):
    token = segmented(url, content)["token"]
    answer = requests.get(f"{url}/results/{token}/overlay.png?opacity=0.25", timeout=30)
    with Image.open(io.BytesIO(answer.content)) as image:
        np.testing.assert_array_equal(image, model(content).overlay(opacity=0.25))


def test_page_gets_the_photograph_and_exact_probabilities(url, model, content):
    token = segmented(url, content)["token"]
    photograph = requests.get(f"{url}/results/{token}/photograph.png", timeout=30).content
    with Image.open(io.BytesIO(content)) as sent, Image.open(io.BytesIO(photograph)) as back:
        np.testing.assert_array_equal(back, sent)
    floats = requests.get(f"{url}/results/{token}/probability.f32", timeout=30).content
    own = model(content).probability
    np.testing.assert_array_equal(np.frombuffer(floats, "<f4").reshape(own.shape), own)


def test_network_runs_once_whatever_is_asked_afterwards(url, content, asked):
    token = segmented(url, content)["token"]
    for threshold in (0.1, 0.4, 0.9):
        for file in ("mask.png", "overlay.png"):
            query = f"threshold={threshold}&opacity={threshold}"
            assert requests.get(f"{url}/results/{token}/{file}?{query}", timeout=30).ok
    assert len(asked) == 1


def test_result_is_forgotten_when_reported_and_when_others_come(url, content):
    def there(token):
        return requests.get(f"{url}/results/{token}/mask.png", timeout=30).status_code == 200

    first, second = (segmented(url, content)["token"] for _ in range(2))
    assert there(first)
    assert requests.delete(f"{url}/results/{first}", timeout=30).status_code == 204
    assert not there(first)
    assert there(second)
    for _ in range(4):
        segmented(url, content)
    assert not there(second)
    gone = requests.get(f"{url}/results/{second}/mask.png", timeout=30)
    assert gone.text.endswith("Segment the photograph again.")


def test_nothing_is_written_to_disk(url, content, tmp_path, monkeypatch):
    # Whatever opens a file to write, in whichever thread of this process, is an audit event.
    written = []

    def audit(event, arguments):
        if event == "open" and active and isinstance(arguments[1], str):
            written.extend([arguments[0]] if set(arguments[1]) & set("wax+") else [])

    active = True
    sys.addaudithook(audit)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    token = segmented(url, content)["token"]
    for file in ("photograph.png", "mask.png", "overlay.png", "probability.png"):
        assert requests.get(f"{url}/results/{token}/{file}", timeout=30).ok
    active = False
    assert written == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        ("segment", b"no image", "could not be decoded"),
        ("segment", b"", "is empty"),
        (
            "segment?model=unet",
            b"x",
            "'unet' is not on this machine. Available are: narrow",
        ),
    ],
)
def test_errors_of_the_library_are_reported(url, path, content, told):
    answer = requests.post(f"{url}/{path}", data=content, timeout=30)
    assert answer.status_code == 400
    assert told in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("threshold=2", "threshold is 2.0; it must be"),
        ("threshold=nan", "threshold is nan; it must be"),
        ("threshold=half", "threshold is 'half'; it must be"),
        ("opacity=-1", "opacity is -1.0; it must be"),
    ],
)
def test_numbers_out_of_range_are_reported(url, content, query, told):
    token = segmented(url, content)["token"]
    answer = requests.get(f"{url}/results/{token}/overlay.png?{query}", timeout=30)
    assert answer.status_code == 400
    assert told in answer.text


@pytest.mark.parametrize("how", ["length announced", "in chunks"])
def test_larger_files_are_rejected(url, how, asked):
    content = b"x" * 100_001
    data = content if how == "length announced" else iter([content[:60_000], content[60_000:]])
    answer = requests.post(f"{url}/segment", data=data, timeout=30)
    assert answer.status_code == 413
    assert answer.text.startswith("The file is larger than 0.1 MB")
    assert asked == []


def test_what_was_not_expected_is_reported_without_details():
    def broken(content):
        raise RuntimeError(f"/a/path/of/the/server: {content}")

    with served(make_app(OfferedModels(broken, "narrow", None), max_upload=10)) as url:
        answer = requests.post(f"{url}/segment", data=b"x", timeout=30)
    assert answer.status_code == 500
    assert answer.text == "Unexpected error: RuntimeError. The terminal shows more."


def test_page_names_no_other_host_and_the_browser_is_reported_to_ask_none(url):
    disclaimers = 0
    for path in ("", "page.css", "page.js", "settings"):
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
    answer = requests.post(f"{url}/segment", data=content, headers={"Origin": url}, timeout=30)
    assert answer.status_code == 200


def test_a_malformed_host_is_rejected_with_the_headers_of_every_answer(url):
    address = url.removeprefix("http://").rsplit(":", 1)
    with socket.create_connection((address[0], int(address[1])), timeout=30) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: bad[\r\n\r\n")
        answer = connection.recv(2000)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"content-security-policy" in answer


@pytest.fixture
def held(model):
    """A page whose network waits until `go` is set; `running` says that it was reached."""
    running, go, seen = threading.Event(), threading.Event(), []

    def wait(content):
        seen.append(content)
        running.set()
        assert go.wait(30)
        return model(content)

    with served(make_app(OfferedModels(wait, "narrow", None), max_upload=100_000)) as url:
        yield url, running, go, seen
        go.set()


def test_the_page_and_a_full_queue_answer_at_once(held, content, monkeypatch):
    url, running, go, _ = held
    monkeypatch.setattr(server, "_QUEUE", 3)
    with ThreadPoolExecutor(3) as senders:
        answers = [senders.submit(segmented, url, content) for _ in range(3)]
        assert running.wait(30)
        while (answer := requests.post(f"{url}/segment", data=content, timeout=30)).ok:
            pass  # the third has not arrived yet
        assert answer.status_code == 503
        assert requests.get(url, timeout=30).status_code == 200
        go.set()
        assert [answer.result()["width"] for answer in answers] == [130] * 3


def test_a_photograph_whose_sender_has_gone_is_not_computed(held, content):
    url, running, go, seen = held
    host, port = url.removeprefix("http://").rsplit(":", 1)
    with ThreadPoolExecutor(1) as senders:
        first = senders.submit(segmented, url, content)
        assert running.wait(30)
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            head = f"POST /segment HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
            connection.sendall(head.encode() + content)
        time.sleep(2)  # the server looks twice a second whether the sender is still there
        go.set()
        first.result()
        assert segmented(url, content)
    assert len(seen) == 2


def test_warnings_of_the_library_are_answered(url):
    stream = io.BytesIO()
    Image.fromarray(np.full((50, 60, 3), 128, np.uint8)).save(stream, "PNG")
    (warning,) = segmented(url, stream.getvalue())["warnings"]
    assert warning.startswith("No field of view was found")


def test_models_on_this_machine_are_offered(url):
    offered = requests.get(f"{url}/settings", timeout=30).json()
    assert offered["models"][:2] == ["narrow", "unet_s5-c16_chase-hrf"]
    assert offered["max_upload"] == 100_000
