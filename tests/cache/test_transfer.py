"""Downloads from servers that behave well or badly; after each, the right file or nothing."""

import dataclasses
import hashlib
import logging
import math
import shutil
import socket
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from support.models import TINY, tiny_weights
from support.servers import File, Status

import vesselseg
from vesselseg import CheckpointError, DownloadError, Source
from vesselseg.cache import transfer

CHUNK = transfer.CHUNK
SPEC = dataclasses.replace(TINY, width=32)  # of many chunks, and yet soon verified


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A file of `SPEC`."""
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.pth", SPEC).read_bytes()


@pytest.fixture(autouse=True)
def right_file_or_nothing(home, content):
    yield
    assert all(path.read_bytes() == content for path in home.glob("*.pth"))


def at(*urls, **pinned):
    return dataclasses.replace(SPEC, sources=tuple(Source(url, **pinned) for url in urls))


@pytest.fixture
def download(server, home):
    """Downloads /a.pth from a server that answers so, one after the other; gives all requests."""

    def download(*answers, **pinned):
        url = server.serve("/a.pth", *answers)
        assert vesselseg.download(at(url, **pinned)) == home / "a.pth"
        return server.requests

    return download


@pytest.fixture
def dead():
    """An address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/dead.pth"


def ranges(requests):
    return [request.headers.get("Range") for request in requests]


def parts(home):
    return [path.stat().st_size for path in home.glob("*.part")]


def test_one_request_brings_the_file(download, home, content):
    for _ in range(2):
        (request,) = download(File(content))
    assert request.sent == len(content)
    assert "identity" in request.headers["Accept-Encoding"]
    assert not parts(home)


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_goes_to_the_next_address_at_once(server, home, content, code):
    current = server.serve("/current.pth", Status(code))
    original = server.serve("/original.pth", File(content))
    assert vesselseg.download(at(current, original)) == home / "original.pth"
    assert len(server.asked("/current.pth")) == 1


def test_a_dead_host_goes_to_the_next_address(server, home, content, dead):
    alive = server.serve("/b.pth", File(content))
    assert vesselseg.download(at(dead, alive)) == home / "b.pth"
    with pytest.raises(DownloadError, match=r"(?s)dead\.pth\n.*Connection refused"):
        vesselseg.download(at(dead))


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_temporary_error_is_retried(download, content, code):
    assert len(download(Status(code), Status(code), File(content))) == 3


def test_a_lasting_error_is_retried_a_few_times(download, server, home):
    with pytest.raises(DownloadError, match="HTTP 503"):
        download(Status(503))
    assert 1 < len(server.requests) < 20
    assert not parts(home)


@pytest.mark.parametrize(("asked", "longest"), [(7, 7), (36000, 60)])
def test_retry_after_is_obeyed_for_at_most_a_minute(download, content, monkeypatch, asked, longest):
    waits = []
    monkeypatch.setattr("vesselseg.cache.transfer.time.sleep", waits.append)
    download(Status(429, {"Retry-After": str(asked)}), File(content))
    assert 7 <= max(waits) <= longest


@pytest.mark.parametrize("after", ["-1", "nan", "soon", "", "9" * 400])
def test_an_invalid_retry_after_is_ignored(download, content, after):
    busy = Status(503, {"Retry-After": after})
    download(busy, busy, File(content))


@pytest.mark.parametrize("length", ["²", "9" * 5000, "-5", "many"])
def test_an_invalid_content_length_is_ignored(download, content, length):
    download(File(content, headers={"Content-Length": length}))


def test_retries_are_not_logged_one_by_one(download, content, dead, caplog):
    download(Status(503), Status(503), File(content))
    with pytest.raises(DownloadError):
        vesselseg.download(at(dead))
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


def test_an_address_with_lone_surrogates_is_reported_like_any_other():
    with pytest.raises(DownloadError, match="Sources and their answers"):
        vesselseg.download(at("http://127.0.0.1/\ud800/a.pth"))


def test_redirects_are_followed(download, server, content):
    there = server.serve("/elsewhere/1234", File(content))
    download(Status(302, {"Location": there}))


class TestBroken:
    def test_a_broken_connection_is_resumed(self, download, server, content):
        requests = download(File(content, cut=3 * CHUNK), File(content, cut=CHUNK), File(content))
        assert ranges(requests) == [None, f"bytes={3 * CHUNK}-", f"bytes={4 * CHUNK}-"]
        assert requests[1].headers["If-Range"] == '"1"'
        assert server.sent() == len(content)

    def test_without_ranges_the_whole_file_is_sent_again(self, download, server, content):
        download(File(content, cut=3 * CHUNK), File(content, ranges=False))
        assert server.sent() == 3 * CHUNK + len(content)

    @pytest.mark.parametrize("etag", [None, 'W/"1"', '"\u00e9"'])
    def test_without_a_usable_validator_the_whole_file_is_sent_again(self, download, content, etag):
        requests = download(File(content, etag, cut=CHUNK), File(content, etag))
        assert ranges(requests) == [None, None]

    def test_a_file_with_a_new_etag_is_downloaded_completely(self, download, content):
        old = File(bytes(len(content)), '"old"', cut=3 * CHUNK)
        requests = download(old, File(content, '"new"'))
        assert requests[1].headers["If-Range"] == '"old"'

    def test_a_file_that_changed_under_the_same_etag_is_downloaded_completely(
        self, download, content
    ):
        old = bytes(byte ^ 1 for byte in content)
        requests = download(File(old, cut=3 * CHUNK), File(content))
        assert ranges(requests) == [None, f"bytes={3 * CHUNK}-", None]

    def test_a_resumed_file_with_other_digits_than_its_name_is_downloaded_completely(
        self, download, content
    ):
        """Values changed in a file without check sums: only the digits tell."""
        requests = download(File(content, cut=3 * CHUNK), File(content), digits="00000000")
        assert [request.sent for request in requests][2:] == [len(content)]

    def test_one_that_breaks_again_is_taken_with_its_digest(self, download, content, caplog):
        broken, rest = File(content, cut=3 * CHUNK), File(content)
        requests = download(broken, rest, broken, rest, digits="00000000")
        assert len(requests) == 4
        assert "does not begin with the digits in its name" in caplog.text

    def test_a_file_that_became_shorter_is_downloaded_completely(self, download, content):
        download(File(content + bytes(CHUNK), cut=len(content) + 100), File(content))

    @pytest.mark.parametrize(
        "wrong", ["bytes 5-{last}/{size}", "bytes {start}-{last}/10", "bytes */{size}", "", "5-"]
    )
    def test_an_answer_of_another_range_is_not_used(self, download, content, wrong):
        size = len(content)
        text = wrong.format(start=CHUNK, last=size - 1, size=size)
        other = Status(206, {"Content-Range": text})
        requests = download(File(content, cut=CHUNK), other, File(content))
        assert ranges(requests) == [None, f"bytes={CHUNK}-", None]

    def test_a_compressed_rest_is_not_used(self, download, content):
        packed = File(content, headers={"Content-Encoding": "gzip"})
        requests = download(File(content, cut=CHUNK), packed, File(content))
        assert ranges(requests) == [None, f"bytes={CHUNK}-", None]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "progress",
        [
            "[" * 100_000,
            "{",
            "[]",
            '{"validator": 1, "length": 9}',
            '{"validator": "a", "length": "b"}',
            '{"validator": "a\\nb", "length": 9}',
            '{"validator": "\\u00e9\\u4e00", "length": 9}',
        ],
    )
    def test_a_damaged_progress_file_restarts_the_download(self, progress, download, home, content):
        with pytest.raises(DownloadError):
            download(File(content, cut=CHUNK))
        (path,) = home.glob("*.part.json")
        path.write_text(progress)
        assert ranges(download(File(content)))[-1] is None

    def test_repeatedly_broken_connections_are_reported_and_resumed_by_the_next_call(
        self, download, server, home, content
    ):
        with pytest.raises(DownloadError, match=f"after {4 * CHUNK} of {len(content)} bytes"):
            download(File(content, cut=CHUNK))
        assert parts(home) == [4 * CHUNK]
        download(File(content))
        assert server.sent() == len(content)

    def test_attempts_are_counted_anew_after_much_progress(self, download, content, monkeypatch):
        monkeypatch.setattr(transfer, "_PROGRESS", CHUNK)
        requests = download(File(content, cut=CHUNK))
        assert len(requests) == math.ceil(len(content) / CHUNK) > 4  # attempts without progress

    def test_a_silent_server_hits_the_read_timeout_and_the_download_is_resumed(
        self, download, content, monkeypatch
    ):
        send = requests.adapters.HTTPAdapter.send

        def soon(self, request, **options):
            return send(self, request, **{**options, "timeout": (5, 0.3)})

        monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", soon)
        silent = File(content, pause_after=2 * CHUNK)
        assert ranges(download(silent, File(content)))[1] == f"bytes={2 * CHUNK}-"
        silent.go.set()


class TestWrong:
    @pytest.fixture
    def rejected(self, download, home):
        """Tells that an answer is not taken."""

        def rejected(answer, match, **pinned):
            with pytest.raises(DownloadError, match=match):
                download(answer, **pinned)
            assert not list(home.glob("*.pth"))

        return rejected

    def test_a_part_that_was_not_asked_for_is_rejected(self, rejected):
        rejected(
            Status(206, {"Content-Range": "bytes 4-7/8"}), "206 with a part of the file, unask"
        )

    def test_a_page_instead_of_the_file_is_rejected(self, rejected, server, home, content):
        page = File(b"\n<!DOCTYPE html><title>This domain is for sale</title>")
        rejected(page, "a page of text")
        assert not parts(home)
        good = server.serve("/b.pth", File(content))
        assert vesselseg.download(at(f"{server.url}/a.pth", good)) == home / "b.pth"

    @pytest.mark.parametrize("announce", [None, 0])
    def test_a_short_file_is_rejected_with_and_without_a_length(self, announce, rejected, content):
        rejected(File(content[:-100], announce=announce), "damaged")

    def test_fewer_bytes_than_announced_are_rejected(self, rejected, home, content):
        short = File(content[: 2 * CHUNK], announce=len(content), etag=None)
        rejected(short, f"after {2 * CHUNK} of {len(content)} bytes")
        assert not parts(home)

    def test_bytes_after_the_announced_length_are_not_read(self, download, content):
        download(File(content + b"more", announce=len(content)))

    def test_too_many_bytes_are_rejected(self, rejected, content):
        pinned = hashlib.sha256(content).hexdigest()
        rejected(File(content + b"more", announce=0), "the model spec pins", sha256=pinned)

    def test_wrong_bytes_are_rejected(self, rejected, content):
        middle = len(content) // 2
        wrong = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        rejected(File(wrong), "damaged")

    def test_an_encoding_that_was_not_requested_is_rejected(self, rejected, content):
        rejected(File(content, headers={"Content-Encoding": "gzip"}), "encoding 'gzip'")

    def test_an_address_without_a_host_is_reported(self):
        with pytest.raises(DownloadError, match=r"InvalidURL: .*No host"):
            vesselseg.download(at("http:///a.pth"))


class TestTls:
    @pytest.fixture
    def certificate(self, server, tmp_path):
        """A certificate that nobody trusts; the server speaks TLS with it."""
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        subprocess.run(
            ["openssl", "req", "-x509", *key, "-days", "2", *names,
             "-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.url = server.url.replace("http:", "https:")
        return tmp_path / "certificate.pem"

    def test_an_unknown_certificate_is_rejected_unless_it_is_in_the_bundle(
        self, server, home, content, certificate, monkeypatch, caplog
    ):
        url = server.serve("/a.pth", File(content))
        with pytest.raises(DownloadError, match=r"(?is)certificate.*verify.*REQUESTS_CA_BUNDLE"):
            vesselseg.download(at(url))
        assert not server.requests
        assert "Retrying" not in caplog.text  # it does not become valid by asking again
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert vesselseg.download(at(url)) == home / "a.pth"

    def test_the_systems_certificates_are_trusted(
        self, server, home, content, certificate, monkeypatch
    ):
        url = server.serve("/a.pth", File(content))
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert vesselseg.download(at(url)) == home / "a.pth"

    def test_a_missing_certificate_bundle_is_reported(self, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/certificates.pem")
        with pytest.raises(DownloadError, match=r"a\.pth\n .*invalid path: /nowhere/cert"):
            vesselseg.download(at("https://127.0.0.1:9/a.pth"))


@pytest.mark.parametrize(
    "error",
    [ConnectionResetError("my socket"), TimeoutError(), RuntimeError(), requests.Timeout(),
     CheckpointError("of another file"), SystemExit()],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("place", ["address", "folder"])
def test_what_a_progress_function_raises_passes_unchanged(
    place, error, server, home, content, tmp_path, monkeypatch
):
    spec = at(server.serve("/a.pth", File(content)))
    if place == "folder":
        (tmp_path / "a.pth").write_bytes(content)
        monkeypatch.setenv("VESSELSEG_MIRROR", str(tmp_path))

    def progress(received, _):
        if received:
            raise error

    with pytest.raises(type(error)) as caught:
        vesselseg.download(spec, progress=progress)
    assert caught.value is error
    assert vesselseg.download(spec, progress=False) == home / "a.pth"
    assert len(server.requests) <= 2  # it was not taken for a fault of the transfer


def test_eight_threads_download_a_file_once(server, home, content):
    file = File(content, pause_after=CHUNK)
    spec = at(server.serve("/a.pth", file))
    with ThreadPoolExecutor(8) as pool:
        paths = [pool.submit(vesselseg.download, spec) for _ in range(8)]
        file.go.set()
        assert [path.result() for path in paths] == [home / "a.pth"] * 8
    assert len(server.requests) == 1
