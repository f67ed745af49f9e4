"""Downloads from servers that behave well or badly; after each, the right file or nothing."""

import dataclasses
import hashlib
import logging
import shutil
import socket
import ssl
import subprocess
import threading

import pytest
from support.models import NARROW
from support.servers import File, Status

import vesselseg
from vesselseg import DownloadError, Source
from vesselseg.cache import transfer

CHUNK = transfer.CHUNK


@pytest.fixture(autouse=True)
def right_file_or_nothing(home, content):
    yield
    assert all(path.read_bytes() == content for path in home.glob("*.pth"))


def at(*urls, **pinned):
    return dataclasses.replace(NARROW, sources=tuple(Source(url, **pinned) for url in urls))


def parts(home):
    return [path.stat().st_size for path in home.glob("*.part")]


def test_one_request_brings_the_file(server, home, content):
    url = server.serve("/a.pth", File(content))
    assert vesselseg.download(at(url)) == home / "a.pth"
    assert vesselseg.download(at(url)).read_bytes() == content
    assert [request.sent for request in server.requests] == [len(content)]
    assert "identity" in server.requests[0].headers["Accept-Encoding"]
    assert not parts(home)


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_goes_to_the_next_address_at_once(server, home, content, code):
    current = server.serve("/current.pth", Status(code))
    original = server.serve("/original.pth", File(content))
    assert vesselseg.download(at(current, original)) == home / "original.pth"
    assert len(server.asked("/current.pth")) == 1


def test_a_dead_host_goes_to_the_next_address(server, home, content):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/a.pth"
    alive = server.serve("/b.pth", File(content))
    assert vesselseg.download(at(dead, alive)) == home / "b.pth"
    with pytest.raises(DownloadError, match=r"(?s)a\.pth\n.*Connection refused"):
        vesselseg.download(at(dead))


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_a_passing_fault_is_asked_again(server, home, content, code):
    url = server.serve("/a.pth", Status(code), Status(code), File(content))
    assert vesselseg.download(at(url)) == home / "a.pth"
    assert len(server.requests) == 3


def test_a_lasting_fault_is_asked_a_few_times(server, home):
    url = server.serve("/a.pth", Status(503))
    with pytest.raises(DownloadError, match="HTTP 503"):
        vesselseg.download(at(url))
    assert len(server.requests) == 1 + transfer.RETRIES
    assert not parts(home)


@pytest.mark.parametrize(("asked", "waited"), [(7, 7), (36000, transfer.LONGEST_WAIT)])
def test_waits_as_the_server_asks_within_bounds(server, home, content, monkeypatch, asked, waited):
    waits = []
    monkeypatch.setattr("vesselseg.cache.transfer.time.sleep", waits.append)
    url = server.serve("/a.pth", Status(429, {"Retry-After": str(asked)}), File(content))
    assert vesselseg.download(at(url)) == home / "a.pth"
    assert waited in waits


@pytest.mark.parametrize("after", ["-1", "nan", "soon", "", "9" * 400])
def test_a_senseless_retry_after_is_ignored(server, home, content, after):
    busy = Status(503, {"Retry-After": after})
    url = server.serve("/a.pth", busy, busy, File(content))
    assert vesselseg.download(at(url)) == home / "a.pth"


@pytest.mark.parametrize("length", ["²", "9" * 5000, "-5", "many"])
def test_a_senseless_content_length_is_ignored(server, home, content, length):
    url = server.serve("/a.pth", File(content, headers={"Content-Length": length}))
    assert vesselseg.download(at(url)) == home / "a.pth"


def test_retries_are_not_logged_one_by_one(server, content, caplog):
    url = server.serve("/a.pth", Status(503), Status(503), File(content))
    vesselseg.download(at(url))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{free.getsockname()[1]}/b.pth"
    with pytest.raises(DownloadError):
        vesselseg.download(at(dead))
    assert not [entry for entry in caplog.records if entry.levelno >= logging.WARNING]


def test_an_address_with_lone_surrogates_is_an_answer_like_any_other():
    with pytest.raises(DownloadError, match="Sources and their answers"):
        vesselseg.download(at("http://127.0.0.1/\ud800/a.pth"))


def test_redirect(server, home, content):
    there = server.serve("/elsewhere/1234", File(content))
    url = server.serve("/a.pth", Status(302, {"Location": there}))
    assert vesselseg.download(at(url)) == home / "a.pth"


class TestBroken:
    def test_a_cut_connection_is_continued(self, server, home, content):
        url = server.serve("/a.pth", File(content, cut=3 * CHUNK), File(content, cut=CHUNK),
                           File(content))  # fmt: skip
        assert vesselseg.download(at(url)) == home / "a.pth"
        ranges = [request.headers.get("Range") for request in server.requests]
        assert ranges == [None, f"bytes={3 * CHUNK}-", f"bytes={4 * CHUNK}-"]
        assert server.requests[1].headers["If-Range"] == '"1"'
        assert server.sent() == len(content)

    def test_a_server_without_ranges_sends_all_again(self, server, home, content):
        whole = File(content, ranges=False)
        url = server.serve("/a.pth", File(content, cut=3 * CHUNK), whole)
        assert vesselseg.download(at(url)) == home / "a.pth"
        assert server.sent() == 3 * CHUNK + len(content)

    @pytest.mark.parametrize("etag", [None, 'W/"1"'])
    def test_without_a_strong_validator_all_is_sent_again(self, server, home, content, etag):
        url = server.serve("/a.pth", File(content, etag, cut=CHUNK), File(content, etag))
        assert vesselseg.download(at(url)) == home / "a.pth"
        assert [request.headers.get("Range") for request in server.requests] == [None, None]

    def test_a_file_that_changed_meanwhile_comes_whole(self, server, home, content):
        old = File(bytes(len(content)), '"old"', cut=3 * CHUNK)
        url = server.serve("/a.pth", old, File(content, '"new"'))
        assert vesselseg.download(at(url)) == home / "a.pth"
        assert server.requests[1].headers["If-Range"] == '"old"'

    def test_a_file_that_changed_under_the_same_etag_comes_whole_in_the_end(
        self, server, home, content
    ):
        old = bytes(byte ^ 1 for byte in content)
        url = server.serve("/a.pth", File(old, cut=3 * CHUNK), File(content))
        assert vesselseg.download(at(url)) == home / "a.pth"
        assert [request.headers.get("Range") for request in server.requests[1:]] == [
            f"bytes={3 * CHUNK}-",
            None,
        ]

    def test_a_pieced_file_whose_name_says_otherwise_comes_whole(self, server, home, content):
        """Values changed in a file without check sums: only the digits tell."""
        url = server.serve("/a.pth", File(content, cut=3 * CHUNK), File(content))
        assert vesselseg.download(at(url, digits="00000000")) == home / "a.pth"
        assert [request.sent for request in server.requests][2:] == [len(content)]

    def test_a_file_that_became_shorter_comes_whole(self, server, home, content):
        long = File(content + bytes(CHUNK), cut=len(content) + 100)
        url = server.serve("/a.pth", long, File(content))
        assert vesselseg.download(at(url)) == home / "a.pth"

    @pytest.mark.parametrize(
        "wrong", ["bytes 5-{last}/{size}", "bytes {start}-{last}/10", "bytes */{size}", "", "5-"]
    )
    def test_an_answer_of_another_range_is_not_used(self, server, home, content, wrong):
        size = len(content)
        text = wrong.format(start=CHUNK, last=size - 1, size=size)
        other = Status(206, {"Content-Range": text})
        url = server.serve("/a.pth", File(content, cut=CHUNK), other, File(content))
        assert vesselseg.download(at(url)) == home / "a.pth"
        assert "Range" not in server.requests[2].headers

    def test_a_compressed_rest_is_not_used(self, server, home, content):
        packed = File(content, headers={"Content-Encoding": "gzip"})
        url = server.serve("/a.pth", File(content, cut=CHUNK), packed, File(content))
        assert vesselseg.download(at(url)) == home / "a.pth"
        assert "Range" not in server.requests[2].headers

    @pytest.mark.parametrize(
        "record",
        [
            "[" * 100_000,
            "{",
            "[]",
            '{"validator": "a\\nb", "length": 9}',
            '{"validator": "\\u00e9\\u4e00", "length": 9}',
        ],
    )
    def test_a_damaged_record_of_progress_starts_the_file_again(
        self, record, server, home, content
    ):
        url = server.serve("/a.pth", File(content, cut=CHUNK))
        with pytest.raises(DownloadError):
            vesselseg.download(at(url))
        (path,) = home.glob("*.part.json")
        path.write_text(record)
        server.serve("/a.pth", File(content))
        assert vesselseg.download(at(url)) == home / "a.pth"
        assert "Range" not in server.requests[-1].headers

    def test_a_validator_that_cannot_be_sent_back_is_not_recorded(self, server, home, content):
        odd = File(content, etag='"\u00e9"', cut=CHUNK)
        url = server.serve("/a.pth", odd, File(content))
        assert vesselseg.download(at(url)) == home / "a.pth"
        assert "Range" not in server.requests[1].headers

    def test_breaking_off_again_and_again_is_reported_and_continued_by_the_next_call(
        self, server, home, content
    ):
        url = server.serve("/a.pth", File(content, cut=CHUNK))
        with pytest.raises(DownloadError, match=f"after {4 * CHUNK} of {len(content)} bytes"):
            vesselseg.download(at(url))
        assert parts(home) == [4 * CHUNK]
        server.serve("/a.pth", File(content))
        assert vesselseg.download(at(url)) == home / "a.pth"
        assert server.sent() == len(content)

    def test_silence_hits_the_read_time_out_and_is_continued(
        self, server, home, content, monkeypatch
    ):
        monkeypatch.setattr(transfer, "_TIMEOUT", (5, 0.3))
        silent = File(content, pause_after=2 * CHUNK)
        url = server.serve("/a.pth", silent, File(content))
        assert vesselseg.download(at(url)) == home / "a.pth"
        assert server.requests[1].headers["Range"] == f"bytes={2 * CHUNK}-"
        silent.go.set()


class TestWrong:
    def rejected(self, server, home, answer, match, **pinned):
        """`answer` is not taken, alone or before a good one."""
        url = server.serve("/a.pth", answer)
        with pytest.raises(DownloadError, match=match):
            vesselseg.download(at(url, **pinned))
        assert not list(home.glob("*.pth"))
        return url

    def test_a_page_in_place_of_the_file(self, server, home, content):
        page = File(b"\n<!DOCTYPE html><title>This domain is for sale</title>")
        url = self.rejected(server, home, page, "a page of text")
        assert not parts(home)
        good = server.serve("/b.pth", File(content))
        assert vesselseg.download(at(url, good)) == home / "b.pth"

    def test_too_few_bytes_announced(self, server, home, content):
        self.rejected(server, home, File(content, announce=len(content) - 100), "damaged")

    def test_too_few_bytes_sent(self, server, home, content):
        short = File(content[: 2 * CHUNK], announce=len(content), etag=None)
        self.rejected(server, home, short, f"after {2 * CHUNK} of {len(content)} bytes")
        assert not parts(home)

    def test_too_few_bytes_without_a_length(self, server, home, content):
        self.rejected(server, home, File(content[:-100], announce=0), "damaged")

    def test_bytes_after_the_announced_length_are_not_read(self, server, home, content):
        url = server.serve("/a.pth", File(content + b"more", announce=len(content)))
        assert vesselseg.download(at(url)) == home / "a.pth"

    def test_too_many_bytes(self, server, home, content):
        pinned = hashlib.sha256(content).hexdigest()
        answer = File(content + b"more", announce=0)
        self.rejected(server, home, answer, "the model spec pins", sha256=pinned)

    def test_wrong_bytes(self, server, home, content):
        middle = len(content) // 2
        wrong = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        self.rejected(server, home, File(wrong), "damaged")

    def test_an_encoding_that_was_not_asked_for(self, server, home, content):
        answer = File(content, headers={"Content-Encoding": "gzip"})
        self.rejected(server, home, answer, "encoding 'gzip'")

    def test_no_address_at_all(self):
        with pytest.raises(DownloadError, match=r"InvalidURL: .*No host"):
            vesselseg.download(at("http:///a.pth"))


class TestTls:
    @pytest.fixture
    def certificate(self, server, tmp_path):
        """A certificate that nobody trusts; the server speaks TLS with it."""
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names,
             "-keyout", tmp_path / "key.pem", "-out", tmp_path / "certificate.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.url = server.url.replace("http:", "https:")
        return tmp_path / "certificate.pem"

    def test_an_unknown_certificate_is_rejected_unless_it_is_named(
        self, server, home, content, certificate, monkeypatch, caplog
    ):
        url = server.serve("/a.pth", File(content))
        with pytest.raises(DownloadError, match=r"(?is)certificate.*verify.*REQUESTS_CA_BUNDLE"):
            vesselseg.download(at(url))
        assert not server.requests
        assert "Retrying" not in caplog.text  # it does not become valid by asking again
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert vesselseg.download(at(url)) == home / "a.pth"

    def test_certificates_that_are_not_there(self, monkeypatch):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/certificates.pem")
        with pytest.raises(DownloadError, match=r"a\.pth\n .*invalid path: /nowhere/cert"):
            vesselseg.download(at("https://127.0.0.1:9/a.pth"))


def test_threads_download_once(server, home, content):
    file = File(content, pause_after=CHUNK)
    url = server.serve("/a.pth", file)
    paths = []
    threads = [
        threading.Thread(target=lambda: paths.append(vesselseg.download(at(url)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    file.go.set()
    for thread in threads:
        thread.join()
    assert paths == [home / "a.pth"] * 8
    assert len(server.requests) == 1
