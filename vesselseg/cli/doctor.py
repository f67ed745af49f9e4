"""``vesselseg doctor``: what is installed, and which precision works well here."""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import os
import platform
import timeit
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..errors import DeviceError, VesselsegError, redact
from ..process import cpu_quota, limit_threads, usable_processors

if TYPE_CHECKING:
    from torch import Tensor

    from ..backends import Backend

_VARIABLES = (
    "ALL_PROXY", "CUDA_VISIBLE_DEVICES", "CURL_CA_BUNDLE", "HTTPS_PROXY", "HTTP_PROXY",
    "MKL_NUM_THREADS", "NO_PROXY", "OMP_NUM_THREADS", "REQUESTS_CA_BUNDLE", "SSL_CERT_DIR",
    "SSL_CERT_FILE", "VESSELSEG_HOME", "VESSELSEG_MIRROR", "VESSELSEG_OFFLINE",
)  # fmt: skip
_EXTRAS = (
    "argcomplete", "highdicom", "matplotlib", "napari", "nncf", "onnx", "onnxruntime", "openvino",
    "pydicom", "ray", "scikit-image", "skan", "starlette", "tifffile", "uvicorn",
)  # fmt: skip
_TIMEOUT = 10.0  # seconds that a host may take to answer
_REPEATS = 3
_LONG = 1.0  # seconds
_EQUAL = 0.999  # share of equal pixels from which on a precision counts as exact


def add_parsers(commands: Any) -> None:
    """Add the parser of ``doctor``."""
    parser = commands.add_parser(
        "doctor",
        help="show versions and devices, and which precision works well here",
        usage="vesselseg doctor [--network] [--json]",
        epilog="examples:\n  vesselseg doctor\n  vesselseg doctor --json > report.json",
        description="Show versions, devices, threads and folders, and compare each precision on "
        "each device with float32 on the CPU, on one window. Nothing is sent anywhere unless "
        "--network is given.",
    )
    add = parser.add_argument
    add("--network", action="store_true",
        help="ask the hosts of the weights whether they answer (default: no)")  # fmt: skip
    add("--json", action="store_true", help="write one JSON object (default: text)")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> None:
    import torch

    from .._version import __version__
    from .models import describe_cache

    limit_threads()
    quota = cpu_quota()
    report: dict[str, Any] = {
        "versions": {
            "vesselseg": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),  # with its build, such as +cpu or +cu130
            **{name: _installed_version(name) for name in ("numpy", "pillow")},
        },
        "extras": {name: _installed_version(name) for name in _EXTRAS},
        "system": platform.platform(),
        "threads": {
            "torch": torch.get_num_threads(),
            "processors usable": usable_processors(),
            "processors allowed by the container": "no limit" if quota is None else quota,
        },
        "devices": _find_devices(),
        "cache": describe_cache(),
        "variables": {
            name: os.environ[name]
            for known in _VARIABLES
            for name in (known, known.lower())
            if name in os.environ
        },
        **_compare_precisions(),
    }
    if options.network:
        report["hosts"] = _ask_hosts()
    text = json.dumps(report, indent=2) if options.json else _to_text(report)
    print(redact(text))  # reports are passed on


def _installed_version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _find_devices() -> dict[str, str]:
    """Names that --device takes, with a description of each device."""
    import torch

    devices = {"cpu": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"}
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(i)
        devices[f"cuda:{i}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["mps"] = "Apple GPU"
    return devices


def _compare_precisions() -> dict[str, Any]:
    """Compare each precision on each device with float32 on the CPU, on one window.

    If the embedded weights cannot be read, random ones take their place.
    """
    import torch

    from .. import cache, weights
    from ..backends.pytorch import DTYPES, TorchBackend, choose_precision, native_precisions
    from ..registry import EMBEDDED
    from ..unet import UNet

    try:
        file = cache.obtain(EMBEDDED, weights.load_network)
        network, name = weights.load_network(file.path, EMBEDDED), EMBEDDED.name
    except (VesselsegError, FileNotFoundError) as error:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = UNet(EMBEDDED.width, EMBEDDED.depth).eval()
        name = f"random weights, since the embedded ones cannot be read: {error}"
    window = _draw_window(EMBEDDED.crop)
    devices = [torch.device(device) for device in _find_devices()]
    reference = None  # logits and seconds of float32 on the CPU, which comes first
    float32_seconds: dict[torch.device, float] = {}
    rows: list[dict[str, Any]] = []
    for device, precision in itertools.product(devices, DTYPES):
        native = precision in native_precisions(device)
        row: dict[str, Any] = {"device": str(device), "precision": precision, "native": native}
        rows.append(row)
        try:
            backend = TorchBackend(network, EMBEDDED, device, precision)
            logits, seconds = _run_timed(backend, window)
        except (DeviceError, RuntimeError, MemoryError) as error:
            row["error"] = str(error).partition("\n")[0]
            continue
        reference = reference or (logits, seconds)
        exact, exact_seconds = reference
        if precision == "float32":
            float32_seconds[device] = seconds
        same = (logits[0] < logits[1]) == (exact[0] < exact[1])
        row["seconds"] = seconds
        row["speed"] = exact_seconds / seconds
        row["deviation"] = float((logits - exact).abs().max() / exact.abs().max())
        row["equal_pixels"] = float(same.float().mean())
        row["verdict"] = "good"
        if row["equal_pixels"] < _EQUAL:
            row["verdict"] = "inexact"
        elif precision != "float32" and seconds >= float32_seconds.get(device, exact_seconds):
            row["verdict"] = "slower than float32"
    return {
        "network": name,
        "window": EMBEDDED.crop,
        "precisions": rows,
        "auto": {str(device): choose_precision("auto", device) for device in devices},
    }


def _draw_window(side: int) -> Tensor:
    """A drawn window (1, 3, side, side), uint8: dark curves on orange, brighter to one side."""
    import torch

    y, x = torch.meshgrid(torch.arange(side) / side, torch.arange(side) / side, indexing="ij")
    light = 0.6 + 0.4 * x
    for i in range(5):
        distance = (y - 0.2 * i - 0.1 * torch.sin(6 * x + i)) * side
        light *= 1 - 0.5 * torch.exp(-((distance / (1 + i)) ** 2))
    return (light * torch.tensor([200, 100, 50]).reshape(1, 3, 1, 1)).round().byte()


def _run_timed(backend: Backend, window: Tensor) -> tuple[Tensor, float]:
    """Logits (2, side, side) on the CPU, and the seconds of the fastest warm run.

    On a CPU that emulates a precision, the first run takes so long that it is not repeated.
    """
    start = timeit.default_timer()
    logits = backend(window)[0].cpu()
    seconds = timeit.default_timer() - start
    if backend.device.type == "cpu" and seconds > _LONG:
        return logits, seconds
    return logits, min(timeit.repeat(lambda: backend(window).cpu(), number=1, repeat=_REPEATS))


def _ask_hosts() -> dict[str, str]:
    """One address of weights on each host and mirror, with the host's answer."""
    import requests

    from ..cache.transfer import open_session
    from ..registry import list_models

    urls = [source.url for spec in list_models() for source in spec.sources]
    urls = [*reversed(urls), *os.environ.get("VESSELSEG_MIRROR", "").split(",")]
    hosts = {urlsplit(url.strip()).netloc: url.strip() for url in urls}
    hosts.pop("", None)  # part of the package, or a folder
    answers = {}
    for url in hosts.values():
        try:
            with open_session() as session:
                response = session.head(url, timeout=_TIMEOUT, allow_redirects=True)
            seconds = response.elapsed.total_seconds()
            answers[url] = f"{response.status_code} {response.reason} after {seconds:.1f} s"
        except requests.RequestException as error:
            answers[url] = f"no answer: {type(error).__name__}: {error}"
    return answers


def _to_text(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = []
    report["versions"]["system"] = report["system"]
    for title in ("versions", "extras", "threads", "devices", "cache", "variables", "hosts"):
        if values := report.get(title):
            width = max(map(len, values))
            lines.append(title.capitalize())
            lines += [f"  {name:{width}}  {value}" for name, value in values.items()]
            lines.append("")
    side = report["window"]
    lines += [
        f"Precisions, on one window of {side} x {side} pixels ({report['network']})",
        "  device  precision  equal pixels  speed        s  native  verdict",
    ]
    for row in report["precisions"]:
        start = f"  {row['device']:7} {row['precision']:9}"
        if "error" in row:
            lines.append(f"{start}  {row['error']}")
            continue
        lines.append(
            f"{start}  {100 * row['equal_pixels']:10.3f} %  {row['speed']:5.2f}  "
            f"{row['seconds']:7.4f}  {'yes' if row['native'] else 'no':6}  {row['verdict']}"
        )
    lines += [
        "  Equal pixels and speed are relative to float32 on the CPU. --precision auto chooses:",
        *(f"    {device}: {precision}" for device, precision in report["auto"].items()),
    ]
    return "\n".join(lines)
