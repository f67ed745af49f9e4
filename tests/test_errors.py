"""What messages show of addresses."""

import os

import pytest
from support.servers import File

import vesselseg
from vesselseg import DownloadError, Source
from vesselseg.cli import main
from vesselseg.errors import redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pa@ss@host:80/a.pth", "https://***@host:80/a.pth"),
        ("ftp://token@host/a, s3://b/c", "ftp://***@host/a, s3://b/c"),
        ("me:secret@proxy:3128", "***@proxy:3128"),
        ("https://host/a.pth?sig=secret&x=1#y", "https://host/a.pth"),
        ("Pool: url: /a.pth?token=secret (Caused by", "Pool: url: /a.pth (Caused by"),
        ("'http://me:secret@a' and 'http://b/c@2/d'", "'http://***@a' and 'http://b/c@2/d'"),
        ("There is no 'a'. Did you mean 'b'?", "There is no 'a'. Did you mean 'b'?"),
        ("/data/a@b.png: 12:30, C:\\me@home\\a", "/data/a@b.png: 12:30, C:\\me@home\\a"),
    ],
)  # fmt: skip
def test_passwords_and_queries_are_not_shown(text, shown):
    assert redact(text) == shown


MIRRORS = [
    "ftp://me:5ecret@127.0.0.1/weights",
    "http://me:5ecret@127.0.0.1:9/weights",
    "http://me:5e@cret5ecret@127.0.0.1:9/weights",
    "http://127.0.0.1:9/weights?token=5ecret",
    "https://5ecret@127.0.0.1:9",
    "http://me:5ecret@:9/no-host",
]


@pytest.mark.slow
@pytest.mark.usefixtures("small_window")
@pytest.mark.parametrize("mirror", MIRRORS)
def test_no_output_shows_a_password(mirror, home, server, content, monkeypatch, caplog, capfd):
    """Whatever a mirror or proxy does: messages, logs, sidecars and reports."""
    caplog.set_level("DEBUG", "vesselseg.cache")
    monkeypatch.setenv("VESSELSEG_MIRROR", mirror)
    for name in ("HTTPS_PROXY", "https_proxy"):
        monkeypatch.setenv(name, "me:5ecret@127.0.0.1:9")
    spec = vesselseg.ModelSpec(
        name="narrow", dataset="t", crop=64, stride=42, width=8,
        sources=(Source("https://me:5ecret@127.0.0.1:9/narrow.pth?key=5ecret"),),
    )  # fmt: skip
    with pytest.raises(DownloadError) as caught:
        vesselseg.download(spec)
    assert main(["doctor", "--network"]) == 0
    assert main(["download", "unet_s5-d16_drive"]) == 1
    texts = [str(caught.value), caplog.text, *capfd.readouterr()]
    server.serve("/weights/narrow.pth", File(content))
    address = server.url.replace("//", "//me:5ecret@")
    monkeypatch.setenv("VESSELSEG_MIRROR", f"{address}/weights")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    vesselseg.download(spec)
    texts += [path.read_text() for path in home.glob("*.json")]
    assert os.environ["HTTPS_PROXY"].startswith("me:5ecret")
    for text in texts:
        assert "5ecret" not in text
