"""Many processes that want one file, and processes that are killed."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from support.models import NARROW
from support.servers import File

import vesselseg
from vesselseg import Source
from vesselseg.cache import transfer

PART = 10 * transfer.CHUNK
SCRIPT = """
import dataclasses, json, sys
import vesselseg
from vesselseg import ModelSpec, Source

spec = ModelSpec.from_dict(json.loads(sys.argv[1]))
spec = dataclasses.replace(spec, sources=(Source(sys.argv[2]),))
print("ready", flush=True)
sys.stdin.readline()
print(vesselseg.download(spec), flush=True)
"""


@pytest.fixture
def start(home):
    """Starts a process that waits for a line, then downloads from an address."""
    assert os.environ["VESSELSEG_HOME"] == str(home)
    started = []

    def start(url):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(NARROW.to_dict()), url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def let_go(process):
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()


def wait_for_part(home):
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if [path.stat().st_size for path in home.glob("*.part")] == [PART]:
            return
        time.sleep(0.01)
    raise AssertionError("the part did not come")


@pytest.mark.slow
def test_three_processes_download_a_file_once(server, home, start, published_file):
    url = server.serve("/a.pth", File(published_file.read_bytes()))
    processes = [start(url) for _ in range(3)]
    for process in processes:
        let_go(process)
    assert [process.stdout.readline() for process in processes] == [f"{home / 'a.pth'}\n"] * 3
    assert len(server.requests) == 1
    assert server.sent() == published_file.stat().st_size
    assert (home / "a.pth").read_bytes() == published_file.read_bytes()


@pytest.mark.slow
def test_the_download_of_a_killed_process_is_resumed_by_another(
    server, home, start, published_file
):
    content = published_file.read_bytes()
    held = File(content, pause_after=PART)
    url = server.serve("/a.pth", held, File(content))
    first, second = start(url), start(url)
    let_go(first)
    wait_for_part(home)
    let_go(second)  # waits for the first one
    first.send_signal(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
    first.wait()
    assert second.stdout.readline() == f"{home / 'a.pth'}\n"
    assert server.requests[1].headers["Range"] == f"bytes={PART}-"
    assert server.sent() == len(content)  # no byte twice
    assert (home / "a.pth").read_bytes() == content
    assert not list(home.glob("*.part*"))
    held.go.set()


def test_a_download_killed_after_the_last_byte_needs_no_further_request(
    server, home, published_file
):
    content = published_file.read_bytes()
    url = server.serve("/a.pth", File(content))
    spec = dataclasses.replace(NARROW, sources=(Source(url),))

    class Killed(BaseException):
        pass

    def kill(done, whole):
        if done == whole:
            raise Killed

    with pytest.raises(Killed):
        vesselseg.download(spec, progress=kill)
    assert [path.stat().st_size for path in home.glob("*.part")] == [len(content)]
    assert vesselseg.download(spec).read_bytes() == content
    assert len(server.requests) == 1
