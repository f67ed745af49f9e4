"""Inject faults of many kinds and count the ones that vesselseg does not handle.

    python tests/faults.py                # all kinds, a few minutes
    python tests/faults.py --scale 0.1    # a tenth of them, under a minute
    python tests/faults.py --kinds images weights

A fault is handled if it raises an exception of vesselseg (or FileNotFoundError), or if the result
is still correct, complete and in time. Any other exception, a hang, a wrong result or a
half-written file counts as lost. The exit code is 1 if a fault was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import io
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from support import LAUNCH, wait_for
from support.dicom import JPEG_2000, JPEG_LS, NATIVE, RLE, dataset
from support.dicom import content as dicom_content
from support.models import NARROW, published_narrow_file, tiny_weights
from support.servers import File, Loopback, Status

import vesselseg
from vesselseg import Source, VesselsegError, weights

HANG = 120.0  # seconds; nothing here takes a tenth of that

Lost = list[str]


def attempt(lost: Lost, label: str, action: Callable[[], object]) -> None:
    """Run an action, and record any exception except those of vesselseg."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of Pillow about damaged files
            action()
    except (VesselsegError, FileNotFoundError):
        return
    except BaseException as error:
        lost.append(f"{label}: {type(error).__name__}: {str(error)[:200]}")


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return the bytes of a file with a random fault."""
    fault = chance.choice(["flip", "cut", "zeros", "insert", "shuffle"])
    place = chance.randrange(len(content))
    if fault == "flip":
        values = bytearray(content)
        for _ in range(chance.choice([1, 8, 64])):
            values[chance.randrange(len(values))] ^= 1 << chance.randrange(8)
        return bytes(values)
    if fault == "cut":
        return content[:place]
    if fault == "zeros":
        return content[:place] + bytes(min(500, len(content) - place)) + content[place + 500 :]
    if fault == "insert":
        return content[:place] + chance.randbytes(50) + content[place:]
    other = chance.randrange(len(content))
    return content[:place] + content[other:] + content[place:other]


def images(count: int, chance: random.Random, _: Path) -> Lost:
    """Damaged files of several formats, and arrays, tensors and PIL images of any kind."""
    lost: Lost = []
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 70, 3), np.uint8))
    files = {}
    for kind, options in (("PNG", {}), ("JPEG", {}), ("TIFF", {}), ("BMP", {}), ("GIF", {}),
                          ("WEBP", {}), ("TIFF", {"compression": "tiff_lzw"})):  # fmt: skip
        stream = io.BytesIO()
        picture.save(stream, kind, **options)
        files[kind + "".join(options)] = stream.getvalue()
    for syntax in (NATIVE, RLE, JPEG_LS, JPEG_2000):
        photograph = dataset(np.asarray(picture))
        if syntax != NATIVE:
            photograph.compress(syntax)
        files[f"DICOM {syntax}"] = dicom_content(photograph)
    types = [np.uint8, np.int8, np.uint16, np.int64, np.float16, np.float64, np.complex64, object]
    shapes = [(), (3,), (5, 6), (5, 6, 1), (5, 6, 2), (5, 6, 3), (5, 6, 4), (3, 5, 6), (1, 5, 6, 3),
              (0, 6, 3), (5, 6, 0)]  # fmt: skip
    fills: list[Any] = [0, 1, 200, -1, float("nan"), float("inf")]
    for number in range(count):
        kind = number % 3
        if kind == 0:
            name = chance.choice(list(files))
            content = damaged(files[name], chance)
            attempt(lost, f"{name} {number}", lambda c=content: vesselseg.field_of_view(c))
        elif kind == 1:
            dtype, shape, fill = chance.choice(types), chance.choice(shapes), chance.choice(fills)
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of values that the type does not hold
                array = np.full(shape, fill, np.float64).astype(dtype)
            given: Any = array
            if chance.random() < 0.3 and dtype is not object:
                given = torch.as_tensor(array)
            label = f"{type(given).__name__} {dtype} {shape} {fill}"
            attempt(lost, label, lambda g=given: vesselseg.field_of_view(g))
        else:
            mode = chance.choice(["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "F",
                                  "LA", "I;16", "LAB"])  # fmt: skip
            image = Image.new(mode, (chance.randrange(0, 30), chance.randrange(0, 30)))
            junk = chance.choice([None, b"\xff\xff", (1, 2, 3, 4, 5), "red", 300, -1, object()])
            if junk is not None:
                image.info["transparency"] = junk
            attempt(lost, f"PIL {mode} {junk!r}", lambda i=image: vesselseg.field_of_view(i))
    return lost


def weights_files(count: int, chance: random.Random, folder: Path) -> Lost:
    """Damaged files of both layouts, and state dicts and model specs with wrong values."""
    lost: Lost = []
    ours, theirs = tiny_weights(folder / "ours.pth"), published_narrow_file(folder / "theirs.pth")
    right = {path: weights.load_network(path, spec).state_dict()
             for path, spec in ((ours, weights.read(ours).spec), (theirs, NARROW))}  # fmt: skip
    values: list[Any] = [None, "text", 2**70, 1e308, -1, float("nan"), [1, 2], torch.zeros(2),
                         torch.zeros(2, 3).to_sparse(), {}, b"bytes", True]  # fmt: skip
    for number in range(count):
        source = chance.choice([ours, theirs])
        path = folder / "damaged.pth"
        label = f"{source.name} {number}"
        if number % 2:
            path.write_bytes(damaged(source.read_bytes(), chance))
        else:
            content = torch.load(source, weights_only=True)
            part = chance.choice([content, content["state_dict"], content.get("spec", content)])
            key = chance.choice(list(part))
            change = chance.choice(["value", "delete", "rename"])
            label += f" {change} {key}"
            value = part.pop(key)
            if change == "value":
                part[key] = chance.choice(values)
                label += f" {part[key]!r}"[:60]
            elif change == "rename":
                part["module." + str(key)] = value
                part[key] = value
            torch.save(content, path)

        def load(path: Path = path, source: Path = source) -> None:
            spec = NARROW if source == theirs else (weights.read(path).spec or NARROW)
            model = vesselseg.load_model(spec, weights=path, device="cpu")
            model.save(folder / "again.pth")
            loaded = weights.load_network(folder / "again.pth", spec).state_dict()
            expected = right[source]
            same = loaded.keys() == expected.keys() and all(
                torch.equal(loaded[k], expected[k]) for k in expected
            )
            assert same, "other weights were loaded without an error"

        attempt(lost, label, load)
    return lost


def downloads(count: int, chance: random.Random, folder: Path) -> Lost:
    """A server that gives one or more wrong answers, and then the right one."""
    lost: Lost = []
    content = published_narrow_file(folder / "right.pth").read_bytes()
    other = published_narrow_file(folder / "other.pth", seed=2).read_bytes()
    cut = len(content) // 3

    def faults() -> list[Callable[[Any], None]]:
        return [
            File(content, cut=cut),
            File(content, cut=0),
            File(content, announce=len(content) + 99),
            File(content, announce=cut),
            File(content, announce=0, etag=None),
            File(content, headers={"Content-Encoding": "gzip"}),
            File(content, headers={"Content-Length": "²"}),
            File(content, headers={"Content-Length": "9" * 5000}),
            File(content, headers={"Content-Range": "bytes 7-8/9"}),
            File(content, etag='"a\u00e9"', cut=cut),
            File(other, etag='"other"', cut=cut),
            File(b"<html>down</html>"),
            File(b""),
            File(content[:cut]),
            File(chance.randbytes(5000)),
            *(Status(code) for code in (403, 404, 416, 429, 500, 502, 503)),
            *(Status(503, {"Retry-After": after}) for after in ("-1", "nan", "soon", "0")),
        ]

    with Loopback() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        for number in range(count):
            some = [chance.choice(faults()) for _ in range(chance.choice([1, 1, 2, 3]))]
            url = server.serve(f"/{number}.pth", *some, File(content))
            spec = dataclasses.replace(NARROW, sources=(Source(url),))
            os.environ["VESSELSEG_HOME"] = str(folder / f"home{number}")
            label = f"download {number}"

            def fetch(spec: Any = spec) -> None:
                for _ in range(6):  # a user who tries again gets the file in the end
                    try:
                        path = vesselseg.download(spec, progress=False)
                    except VesselsegError:
                        continue
                    assert path.read_bytes() in (content, other), "a wrong file was accepted"
                    return
                raise AssertionError("the file never arrived although the server recovered")

            attempt(lost, label, fetch)
        server.shutdown()
    return lost


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen]:
    """Run the vesselseg command in a new process, which is killed at the end of the block."""
    running = subprocess.Popen(
        [sys.executable, "-c", LAUNCH, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def photographs(folder: Path, count: int = 20) -> Path:
    """Write a folder of small photographs."""
    folder.mkdir()
    chance = np.random.default_rng(1)
    for number in range(count):
        pixels = chance.integers(0, 255, (190, 200, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
    return folder


def folder_runs(count: int, chance: random.Random, folder: Path, stop: signal.Signals) -> Lost:
    """Stop runs over a folder by a signal while they write, and resume them."""
    lost: Lost = []
    model = str(tiny_weights(folder / "tiny.pth"))
    source = str(photographs(folder / "in"))
    options = ["segment", source, "--model", model, "--device", "cpu", "--probability"]

    def tree(out: Path) -> dict[str, bytes]:
        return {
            path.relative_to(out).as_posix(): path.read_bytes()
            for path in out.rglob("*")
            if path.is_file() and path.suffix != ".jsonl"
        }

    with process(*options, "-o", str(folder / "reference")) as running:
        wait_for(lambda: list((folder / "reference").rglob("*.png")), HANG)
        first = time.monotonic()
        running.communicate(timeout=HANG)
        length = time.monotonic() - first
    reference = tree(folder / "reference")
    assert reference
    for number in range(count):
        out = folder / f"out{number}"
        resume = [*options, "-o", str(out), "--manifest", str(out / "run.jsonl"), "--resume"]
        with process(*resume) as running:
            wait_for(lambda out=out: list(out.rglob("*.png")), HANG)
            time.sleep(chance.uniform(0.0, 1.0) * length)
            running.send_signal(stop)
            try:
                running.communicate(timeout=HANG)
            except subprocess.TimeoutExpired:
                lost.append(f"{stop.name} {number}: the run did not end")
                continue
        found = tree(out) if out.exists() else {}
        whole = {name: content for name, content in found.items() if not name.endswith(".part")}
        if any(reference.get(name) != content for name, content in whole.items()):
            lost.append(f"{stop.name} {number}: a file is not whole")
        if stop == signal.SIGINT and len(whole) < len(found):
            lost.append(f"{stop.name} {number}: a part was left behind")
        with process(*resume) as running:
            _, errors = running.communicate(timeout=HANG)
        if running.returncode or tree(out) != reference:
            lost.append(f"{stop.name} {number}: the run could not be finished: {errors[-300:]!r}")
    return lost


def uploads(count: int, chance: random.Random, folder: Path) -> Lost:
    """Hostile requests to the page, which must still answer after each and end at SIGTERM."""
    lost: Lost = []
    stream = io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(stream, "PNG")
    picture = stream.getvalue()
    model = str(tiny_weights(folder / "tiny.pth"))
    with process("app", "--port", "0", "--model", model, "--device", "cpu") as running:
        assert running.stdout is not None
        line = running.stdout.readline().decode()
        port = int(line.split("://", 1)[1].split("/")[0].rsplit(":", 1)[1])

        def send(content: bytes) -> bytes:
            with socket.create_connection(("127.0.0.1", port), timeout=HANG) as connection:
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
                return connection.recv(100)

        def request(*lines: str, body: bytes = b"") -> bytes:
            head = "\r\n".join([*lines, "", ""]).encode("latin-1")
            return head + body

        host = f"Host: 127.0.0.1:{port}"
        stalled = []
        for number in range(count):
            length = f"Content-Length: {len(picture)}"
            upload = f"POST /segment?model={chance.choice(['', 'none', '%00', '../x'])} HTTP/1.1"
            hostile = [
                request(upload, host, length, body=damaged(picture, chance)),
                request(upload, host, length, body=picture[: len(picture) // 2]),
                request(upload, host, f"Content-Length: {10**12}"),
                request(upload, host, "Content-Length: -5", body=picture),
                request(upload, host, "Transfer-Encoding: chunked", body=b"zz\r\n"),
                request("GET / HTTP/1.1", "Host: [bad"),
                request("GET / HTTP/1.1", host, "Origin: http://[bad"),
                request("GET / HTTP/1.1", "Host: example.org"),
                request("GET /results/x/../../etc/passwd HTTP/1.1", host),
                request("GET /results/none/mask.png?threshold=nan HTTP/1.1", host),
                request("DELETE /results/none HTTP/1.1", host),
                request("GET /" + "a" * 5000 + " HTTP/1.1", host),
                chance.randbytes(300),
            ]
            with contextlib.suppress(OSError):
                answer = send(chance.choice(hostile))
                if b" 500 " in answer:
                    lost.append(f"upload {number}: {answer[:60]!r}")
            if number % 20 == 0:  # a client that sends half of its photograph and waits
                connection = socket.create_connection(("127.0.0.1", port))
                connection.sendall(request(upload, host, length, body=picture[:20]))
                stalled.append(connection)
            try:
                client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
                client.request("GET", "/")
                if client.getresponse().status != 200:
                    lost.append(f"upload {number}: the page does not answer with 200 any more")
                client.close()
            except OSError as error:
                lost.append(f"upload {number}: the page does not answer any more: {error}")
        running.send_signal(signal.SIGTERM)
        try:
            running.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            lost.append("SIGTERM does not end the server")
        for connection in stalled:
            connection.close()
    return lost


KINDS: dict[str, tuple[Callable[[int, random.Random, Path], Lost], int]] = {
    "images": (images, 3000),
    "weights": (weights_files, 600),
    "downloads": (downloads, 150),
    "kills": (partial(folder_runs, stop=signal.SIGKILL), 20),
    "interrupts": (partial(folder_runs, stop=signal.SIGINT), 20),
    "uploads": (uploads, 200),
}
"""Kind -> function that injects its faults, and their number."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the faults to inject")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| faults | injected | lost | seconds |\n|---|---|---|---|", flush=True)
    everything: Lost = []
    for kind in options.kinds:
        inject, count = KINDS[kind]
        count = max(1, round(count * options.scale))
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            lost = inject(count, random.Random(options.seed), Path(folder))
        seconds = time.monotonic() - begun
        print(f"| {kind} | {count} | {len(lost)} | {seconds:.0f} |", flush=True)
        everything += lost
    for line in everything:
        print(line)
    return 1 if everything else 0


if __name__ == "__main__":
    sys.exit(main())
