"""``vesselseg doctor``: what is installed, what is found, and what computes well here."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import DeviceError, VesselsegError

if TYPE_CHECKING:
    from torch import Tensor

    from ..backends.pytorch import TorchBackend
    from ..unet import UNet

_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "HTTPS_PROXY", "MKL_NUM_THREADS", "OMP_NUM_THREADS",
    "REQUESTS_CA_BUNDLE", "VESSELSEG_HOME", "VESSELSEG_MIRROR", "VESSELSEG_OFFLINE",
)  # fmt: skip
_OPTIONAL = (
    "onnx", "onnxruntime", "openvino", "nncf", "ray", "scikit-image", "starlette", "uvicorn",
)  # fmt: skip
_SECONDS = 10.0  # that a host may take to answer
_REPEATS = 3
_EQUAL = 0.999  # of the pixels of a mask, in a precision that does well


def add_parsers(commands: Any) -> None:
    """Add the parser of ``doctor``."""
    parser = commands.add_parser(
        "doctor",
        help="show versions, devices, and which precision does well here",
        description="Show versions, devices, threads and folders, and try each precision on each "
        "device: one window, compared with float32 on the CPU. Nothing is sent anywhere unless "
        "--network is given.",
    )
    parser.add_argument("--network", action="store_true",
        help="ask the hosts of the weights whether they answer (default: no)")  # fmt: skip
    parser.add_argument("--json", action="store_true",
        help="write one JSON object (default: a text to read)")  # fmt: skip
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    report: dict[str, Any] = {
        "versions": _versions(),
        "extras": _extras(),
        "system": platform.platform(),
        "processor": _processor(),
        "threads": _threads(),
        "devices": _devices(),
        "cache": _cache(),
        "variables": {x: _public(os.environ[x]) for x in _VARIABLES if x in os.environ},
        **_precisions(),
    }
    if options.network:
        report["hosts"] = _hosts()
    print(json.dumps(report, indent=2) if options.json else _text(report))
    return 0


def _versions() -> dict[str, str]:
    from .. import __version__

    packages = ("torch", "numpy", "pillow")
    installed = {name: importlib.metadata.version(name) for name in packages}
    return {"vesselseg": __version__, "python": platform.python_version(), **installed}


def _extras() -> dict[str, str]:
    """Packages of the optional extras."""

    def version(name: str) -> str:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return "not installed"

    return {name: version(name) for name in _OPTIONAL}


def _processor() -> str:
    import torch

    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _threads() -> dict[str, int]:
    import torch

    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    usable = len(affinity(0)) if affinity else os.cpu_count() or 1
    return {"torch": torch.get_num_threads(), "processors usable": usable}


def _devices() -> dict[str, str]:
    """Names that --device takes -> what they are."""
    import torch

    devices = {"cpu": _processor()}
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(i)
            devices[f"cuda:{i}"] = f"{about.name}, {about.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _cache() -> dict[str, Any]:
    from ..cache import cache_folder

    folder = cache_folder()
    files = [path.stat().st_size for path in folder.glob("*.pth")] if folder.is_dir() else []
    return {"folder": str(folder), "weights": len(files), "megabytes": round(sum(files) / 1e6, 1)}


def _precisions() -> dict[str, Any]:
    """Each precision on each device against float32 on the CPU: one window, the best of a few."""
    import torch

    from ..registry import EMBEDDED
    from ..backends.pytorch import PRECISIONS, TorchBackend, choose_precision, native_precisions

    network, name = _network()
    window = _window(EMBEDDED.crop)
    exact, seconds = _timed(TorchBackend(network, EMBEDDED, torch.device("cpu"), "float32"), window)
    rows: list[dict[str, Any]] = []
    devices = [torch.device(name) for name in _devices()]
    for device in devices:
        for precision in PRECISIONS:
            if precision == "auto":
                continue
            native = precision in native_precisions(device)
            row: dict[str, Any] = {"device": str(device), "precision": precision, "native": native}
            rows.append(row)
            try:
                choose_precision(precision, device)
                if (device.type, precision) == ("cpu", "float32"):
                    logits, row["seconds"] = exact, seconds
                else:
                    backend = TorchBackend(network, EMBEDDED, device, precision)
                    logits, row["seconds"] = _timed(backend, window)
            except (DeviceError, RuntimeError, MemoryError) as error:
                row["error"] = str(error).partition("\n")[0]
                continue
            row["speed"] = seconds / row["seconds"]
            row["deviation"] = float((logits - exact).abs().max() / exact.abs().max())
            same = (logits[0] < logits[1]) == (exact[0] < exact[1])
            row["equal_pixels"] = float(same.float().mean())
            row["verdict"] = _verdict(row, rows)
    return {
        "network": name,
        "window": EMBEDDED.crop,
        "precisions": rows,
        "auto": {str(device): choose_precision("auto", device) for device in devices},
    }


def _verdict(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    plain = next(x for x in rows if x["device"] == row["device"] and x["precision"] == "float32")
    if row["equal_pixels"] < _EQUAL:
        return "inexact"
    return "good" if row is plain or row["seconds"] < plain["seconds"] else "slower than float32"


def _network() -> tuple[UNet, str]:
    """The package's own network; or, where its file cannot be read, one filled from a seed."""
    import torch

    from .. import weights
    from ..cache import download
    from ..registry import EMBEDDED
    from ..unet import UNet

    try:
        return weights.to_network(weights.read(download(EMBEDDED)), EMBEDDED), EMBEDDED.name
    except (VesselsegError, FileNotFoundError) as error:
        reason = str(error)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(EMBEDDED.width, EMBEDDED.depth).eval()
    return network, f"random weights, since the package's own cannot be read: {reason}"


def _window(side: int) -> Tensor:
    """A drawn window (1, 3, side, side), uint8: dark curves on orange, brighter to one side."""
    import numpy as np
    import torch

    y, x = np.mgrid[:side, :side] / side
    away = [abs(y - 0.2 * i - 0.1 * np.sin(6 * x + i)) * side for i in range(5)]
    vessels = sum(np.exp(-((d / (1 + i)) ** 2)) for i, d in enumerate(away))
    light = (0.6 + 0.4 * x) * (1 - 0.5 * np.minimum(vessels, 1))
    pixels = np.rint(light[..., None] * (200, 100, 50)).astype(np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def _timed(backend: TorchBackend, window: Tensor) -> tuple[Tensor, float]:
    """Logits (2, side, side) on the CPU, and the seconds that they take when warm."""
    times = []
    for _ in range(1 + _REPEATS):
        begun = time.perf_counter()
        logits = backend(window)[0].cpu()
        times.append(time.perf_counter() - begun)
    return logits, min(times[1:])


def _hosts() -> dict[str, str]:
    """Addresses of weights, one of each host and mirror -> what they answer."""
    import requests

    from ..registry import list_models

    mirror = os.environ.get("VESSELSEG_MIRROR", "")
    urls = [source.url for record in list_models() for source in record.sources]
    answers = {}
    for host, url in {urlsplit(url).netloc: url for url in [*urls[::-1], mirror]}.items():
        if not host:
            continue  # part of the package, or a folder
        begun = time.perf_counter()
        try:
            with requests.head(url, timeout=_SECONDS, allow_redirects=True) as answer:
                said = f"{answer.status_code} {answer.reason}"
            answers[_public(url)] = f"{said} after {time.perf_counter() - begun:.1f} s"
        except requests.RequestException as error:
            answers[_public(url)] = f"no answer: {type(error).__name__}: {error}"
    return answers


def _public(value: str) -> str:
    """Without the user and password of an address: reports are passed on."""
    return re.sub(r"//[^/@]*@", "//***@", value)


def _text(report: dict[str, Any]) -> str:
    def block(title: str, values: dict[str, Any]) -> list[str]:
        width = max(map(len, values), default=0)
        return [title, *(f"  {name:{width}}  {value}" for name, value in values.items()), ""]

    lines = block("Versions", {**report["versions"], "system": report["system"]})
    for title in ("extras", "threads", "devices", "cache", "variables", "hosts"):
        if report.get(title):
            lines += block(title.capitalize(), report[title])
    side = report["window"]
    lines += [f"Precisions, one window of {side} x {side} pixels ({report['network']})"]
    lines += ["  device  precision  native       s  speed  deviation  equal pixels"]
    for row in report["precisions"]:
        start = f"  {row['device']:7} {row['precision']:9}  {'yes' if row['native'] else 'no':6}"
        if "error" in row:
            lines.append(f"{start}  {row['error']}")
            continue
        lines.append(
            f"{start} {row['seconds']:7.4f} {row['speed']:6.2f}  {row['deviation']:9.1e}  "
            f"{100 * row['equal_pixels']:10.3f} %  {row['verdict']}"
        )
    lines += ["  speed: against float32 on the CPU. deviation: largest of a logit, relative to the"]
    lines += ["  largest logit. --precision auto takes:"]
    lines += [f"    {device}: {precision}" for device, precision in report["auto"].items()]
    return "\n".join(lines)
