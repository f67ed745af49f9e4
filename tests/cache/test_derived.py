"""Files that are computed from weights: once, and again if they are damaged."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.models import NARROW

from vesselseg import OptionError, cache
from vesselseg.registry import find_spec

KEY = "0123456789abcdef" * 4
DRIVE = find_spec("unet_s5-d16_drive")


def derived(content=b"content", key=KEY, calls=None):
    """A derived file that would be computed as `content`; each computation adds to `calls`."""

    def make():
        if calls is not None:
            calls.append(content)
        return content

    return cache.derived(NARROW, key, "word", make)


@pytest.fixture
def file(home):
    return home / "narrow.pth.0123456789ab.word.derived"


def test_is_computed_once_and_cleared_with_its_model(file):
    calls = []
    assert [derived(calls=calls), derived(calls=calls)] == [b"content"] * 2
    assert calls == [b"content"]
    assert cache.contents() == cache.contents(NARROW) == [file]
    assert cache.contents(DRIVE) == cache.clear(DRIVE) == []
    assert cache.clear(NARROW) == [file]
    assert cache.contents() == []


@pytest.mark.usefixtures("home")
def test_another_key_is_another_content():
    derived()
    assert derived(b"other", "f" * 64) == b"other"
    assert derived(b"not computed") == b"content"
    assert derived(b"begins the same", KEY[:-1] + "0") == b"begins the same"


@pytest.mark.parametrize("damage", ["shorter", "changed", "empty", "zeros"])
def test_a_damaged_file_is_computed_again(damage, file, caplog):
    derived()
    whole = file.read_bytes()
    changed = {
        "shorter": whole[:-1],
        "changed": whole[:-1] + b"T",
        "empty": b"",
        "zeros": bytes(len(whole)),
    }
    file.write_bytes(changed[damage])
    assert derived() == b"content"
    assert "is damaged; it is computed again" in caplog.text
    assert file.read_bytes() == whole


@pytest.mark.usefixtures("home")
def test_a_failure_leaves_nothing():
    def fail():
        raise OptionError("no")

    with pytest.raises(OptionError):
        cache.derived(NARROW, KEY, "word", fail)
    assert cache.contents() == []
    assert derived() == b"content"


@pytest.mark.usefixtures("home")
def test_threads_wait_for_the_one_that_computes_it():
    begun, go, calls = threading.Event(), threading.Event(), []

    def slow():
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


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VESSELSEG_HOME", str(tmp_path / "file"))
    calls = []
    assert [derived(calls=calls), derived(calls=calls)] == [b"content"] * 2
    assert len(calls) == 2
    assert "computed each time" in caplog.text
