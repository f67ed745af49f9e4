"""Files that are made from weights: once, and again where they are not what was made."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.models import NARROW

from vesselseg import OptionError, cache
from vesselseg.registry import find_spec

KEY = "0123456789abcdef" * 4


class Maker:
    """Gives a content and counts."""

    def __init__(self, content: bytes = b"content") -> None:
        self.content, self.calls = content, 0

    def __call__(self) -> bytes:
        self.calls += 1
        return self.content


def made(maker: Maker, key: str = KEY) -> bytes:
    return cache.derived(NARROW, key, "word", maker)


def file(home: Path) -> Path:
    return home / "narrow.pth.0123456789ab.word.derived"


def test_is_made_once(home: Path) -> None:
    maker = Maker()
    assert [made(maker), made(maker)] == [b"content"] * 2
    assert maker.calls == 1
    assert cache.contents() == cache.contents(NARROW) == [file(home)]
    assert cache.contents(find_spec("unet_s5-d16_drive")) == []


@pytest.mark.usefixtures("home")
def test_another_key_is_another_file() -> None:
    made(Maker())
    assert made(Maker(b"other"), "f" * 64) == b"other"
    assert made(Maker(b"not made")) == b"content"


@pytest.mark.usefixtures("home")
def test_a_key_that_begins_the_same_is_not_taken_for_it() -> None:
    made(Maker())
    assert made(Maker(b"other"), KEY[:-1] + "0") == b"other"


@pytest.mark.parametrize("damage", ["shorter", "changed", "empty", "zeros"])
def test_what_is_damaged_is_made_anew(
    damage: str, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made(Maker())
    whole = file(home).read_bytes()
    changed = {
        "shorter": whole[:-1],
        "changed": whole[:-1] + b"T",
        "empty": b"",
        "zeros": bytes(len(whole)),
    }
    file(home).write_bytes(changed[damage])
    assert made(Maker()) == b"content"
    assert "is damaged; it is computed again" in caplog.text
    assert file(home).read_bytes() == whole


@pytest.mark.usefixtures("home")
def test_what_fails_leaves_nothing() -> None:
    def fail() -> bytes:
        raise OptionError("no")

    with pytest.raises(OptionError):
        cache.derived(NARROW, KEY, "word", fail)
    assert cache.contents() == []
    assert made(Maker()) == b"content"


@pytest.mark.usefixtures("home")
def test_threads_wait_for_the_one_that_makes_it() -> None:
    begun, go = threading.Event(), threading.Event()
    calls = []

    def slow() -> bytes:
        calls.append(1)
        begun.set()
        assert go.wait(10)
        return b"content"

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(cache.derived, NARROW, KEY, "word", slow) for _ in range(4)]
        assert begun.wait(10)
        go.set()
        assert {result.result(10) for result in results} == {b"content"}
    assert len(calls) == 1


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path / "file"))
    maker = Maker()
    assert [made(maker), made(maker)] == [b"content"] * 2
    assert maker.calls == 2
    assert "computed each time" in caplog.text


def test_clearing_removes_it(home: Path) -> None:
    made(Maker())
    assert cache.clear(find_spec("unet_s5-d16_drive")) == []
    assert cache.clear(NARROW) == [file(home)]
    assert cache.contents() == []
