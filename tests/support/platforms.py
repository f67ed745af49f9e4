"""Windows, macOS and others, as far as Python programs see them, on Linux.

``python platforms.py SYSTEM PROGRAM`` runs a program where that system's peculiarities hold. The
libraries that vesselseg uses are imported before.
"""

import builtins
import ctypes
import io
import os
import runpy
import signal
import sys
import warnings
from pathlib import Path

POSIX_MODULES = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "syslog")
POSIX_OS = (
    "fork", "forkpty", "getuid", "geteuid", "getgid", "getegid", "kill", "killpg", "mkfifo", "nice",
    "register_at_fork", "sched_getaffinity", "sched_setaffinity", "statvfs", "uname", "wait",
)  # fmt: skip
POSIX_SIGNALS = (
    "SIGHUP", "SIGKILL", "SIGPIPE", "SIGUSR1", "SIGUSR2", "SIGALRM", "alarm", "pthread_sigmask",
)  # fmt: skip


def lack(modules=(), names=()):
    """Let modules be missing, and names of others."""
    find = builtins.__import__

    def look(name, given=None, *arguments, **options):
        ours = (given or {}).get("__name__", "").startswith("vesselseg")
        if ours and name in modules:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return find(name, given, *arguments, **options)

    builtins.__import__ = look
    for module, missing in dict(names).items():
        for name in missing:
            if hasattr(module, name):
                delattr(module, name)


def is_open(path):
    """Whether this process has a file open."""
    real = os.path.realpath(path)
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            if str(descriptor.readlink()) == real:
                return True
        except OSError:
            continue
    return False


def keep_open_files():
    """Refuse to rename, replace or remove a file that is open."""

    def refusing(function):
        def refuse(*paths, **options):
            for path in paths:
                if isinstance(path, (str, os.PathLike)) and is_open(path):
                    raise PermissionError(13, "The process cannot access the file", str(path))
            return function(*paths, **options)

        return refuse

    for name in ("rename", "replace", "remove", "unlink"):
        setattr(os, name, refusing(getattr(os, name)))


def without_library(name):
    """Windows has no library of the whole process."""
    if name is None:
        raise TypeError("bad argument type for built-in operation")
    raise OSError(f"cannot load {name}")


class _Library:
    """A C library without malloc_trim."""

    def __init__(self, _name):
        pass


def without_onednn():
    """PyTorch's wheels for macOS on ARM are built without oneDNN."""
    import torch

    from vesselseg.backends import onednn

    torch.backends.mkldnn.is_available = lambda: False
    torch.backends.cpu.get_cpu_capability = lambda: "DEFAULT"
    onednn._OPS = object()


def windows():
    lack(POSIX_MODULES, {os: POSIX_OS, signal: POSIX_SIGNALS})
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on; on Linux it asks for the affinity
        os.process_cpu_count = os.cpu_count
    keep_open_files()
    ctypes.CDLL = without_library
    sys.platform = "win32"


def macos():
    lack((), {os: ("sched_getaffinity", "sched_setaffinity", "process_cpu_count")})
    ctypes.CDLL = _Library
    without_onednn()
    sys.platform = "darwin"


def musl():
    ctypes.CDLL = _Library


def warn_of_encodings():
    """Let a text file that vesselseg opens without an encoding be an error."""
    warnings.filterwarnings("error", category=EncodingWarning, module="vesselseg")


if __name__ == "__main__":
    system, program, *sys.argv[1:] = sys.argv[1:]
    for name in ("filelock", "numpy", "PIL.Image", "platformdirs", "requests", "torch", "tqdm"):
        __import__(name)
    warn_of_encodings()
    {"windows": windows, "macos": macos, "musl": musl}[system]()
    encoding = "cp1252" if system == "windows" else "ascii"
    for name, errors in (("stdout", "strict"), ("stderr", "backslashreplace")):  # Python's own
        stream = io.TextIOWrapper(getattr(sys, name).buffer, encoding=encoding, errors=errors)
        setattr(sys, name, stream)
    runpy.run_path(program, run_name="__main__")
    sys.stdout.flush()
    sys.stderr.flush()
