"""What holds for this process: forks, processors and standard error."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from .errors import DeviceError

if TYPE_CHECKING:
    import torch
    from tqdm import tqdm

_first_user = 0
"""Id of the process in which networks were first used; forked processes inherit it."""


def check_fork(device: torch.device, backend: str = "torch") -> None:
    """Raise DeviceError in a process that was forked from one that had used networks.

    The threads of PyTorch and of other backends do not survive a fork: a forked process would wait
    for them for ever. CUDA does not survive it either. PyTorch needs none with a single thread.
    """
    global _first_user
    import torch

    _first_user = _first_user or os.getpid()
    if _first_user == os.getpid():
        return
    on_cpu = backend == "torch" and device.type == "cpu"
    if on_cpu and torch.get_num_threads() == 1:
        return
    single = " Or call torch.set_num_threads(1) in each forked process." if on_cpu else ""
    raise DeviceError(
        f"This process was forked from one that had used vesselseg, whose threads and devices do "
        f"not survive a fork. Start processes with multiprocessing.get_context('spawn'), or fork "
        f"before the first use.{single}"
    )


def usable_processors() -> int:
    """Number of processors that this process may run on, by its affinity."""
    count = getattr(os, "process_cpu_count", None)  # from Python 3.13 on
    if count is not None:
        return count() or 1
    affinity = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def cpu_quota() -> float | None:
    """Processors that a container may use on average, by its cgroup; None if there is no limit."""
    quotas = []
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, inside = line.split(":", 2)
        root, files = Path("/sys/fs/cgroup"), ["cpu.max"]  # quota and period
        if "cpu" in controllers.split(","):  # version 1
            root, files = root / "cpu", ["cpu.cfs_quota_us", "cpu.cfs_period_us"]
        elif controllers:
            continue
        place = PurePosixPath(inside.lstrip("/"))
        for folder in (place, *place.parents):
            values = [word for name in files for word in _read(root / folder / name).split()]
            if len(values) == 2 and all(map(str.isdecimal, values)) and int(values[1]):
                quotas.append(int(values[0]) / int(values[1]))
    return min(quotas, default=None)


def _read(path: Path) -> str:
    """The text of a file of the system; "" if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def limit_threads() -> None:
    """Let PyTorch use no more threads than a container's quota, unless the user says how many.

    It is for programs of our own, since the number of threads is that of the whole process.
    """
    import torch

    quota = cpu_quota()
    if quota is not None and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(torch.get_num_threads(), max(math.ceil(quota), 1)))


def progress_bar(*, shown: bool = True, anywhere: bool = False, **options: Any) -> tqdm[Any]:
    """A bar on standard error, if that is a terminal or `anywhere` is true.

    A program without a console, such as a service, may have no standard error.
    """
    from tqdm import tqdm

    is_visible = sys.stderr is not None and (anywhere or sys.stderr.isatty())
    return tqdm(disable=not (shown and is_visible), **options)
