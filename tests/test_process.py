"""Forks, processors, and programs without standard streams."""

import builtins
import importlib.util
import io
import multiprocessing
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image

import vesselseg
from vesselseg import process

has_fork = "fork" in multiprocessing.get_all_start_methods()
needs_fork = pytest.mark.skipif(not has_fork, reason="no fork on this system")

FORK = """
import multiprocessing, sys
import numpy as np
import torch
import vesselseg

image = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
uses = {uses}

def work(number, threads):
    if threads:
        torch.set_num_threads(threads)
    try:
        return int(uses[number]().mask.sum())
    except vesselseg.DeviceError as error:
        return str(error)

if __name__ == "__main__":
    torch.set_num_threads(2)
    numbers = range(len(uses))
    expected = [work(number, 0) for number in numbers]
    assert all(isinstance(each, int) for each in expected)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        many = pool.starmap(work, [(number, 0) for number in numbers])
        single = pool.starmap(work, [(number, 1) for number in numbers])
    for each in many:
        assert "forked from one that had used vesselseg" in each, each
        assert "spawn" in each
    {check}
"""


def run(code, folder, **options):
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code],
        cwd=folder, capture_output=True, text=True, timeout=120, check=False, **options,
    )  # fmt: skip


@needs_fork
@pytest.mark.slow
def test_a_process_forked_after_use_raises_an_error_or_works_with_one_thread(tmp_path):
    uses = """[
    lambda: vesselseg.segment(image, scale="native", device="cpu"),
    lambda: next(iter(model.segment_many([image], scale="native"))),
]
model = vesselseg.load_model(device="cpu")"""
    check = "assert single == expected, (single, expected)"
    finished = run(FORK.format(uses=uses, check=check), tmp_path)
    assert finished.returncode == 0, finished.stderr


@needs_fork
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_sessions_of_other_backends_do_not_survive_a_fork_at_all(backend, model, tmp_path):
    pytest.importorskip(backend)
    model.export(tmp_path / "model.onnx")
    uses = f"""[lambda: model(image, scale="native")]
model = vesselseg.load_model("model.onnx", backend="{backend}", device="cpu")"""
    finished = run(FORK.format(uses=uses, check="assert single == many"), tmp_path)
    assert finished.returncode == 0, finished.stderr


UNGUARDED = """
import multiprocessing, sys
import vesselseg
multiprocessing.set_start_method("spawn")
model = vesselseg.load_model("narrow.pth", device="cpu")
model("eye.png")
list(model.segment_many(2 * ["eye.png"]))
vesselseg.segment_folder("eye.png", "out", model=model)
if "int8" in sys.argv:
    model.export("int8.onnx", precision="int8", calibration=["eye.png"])
print("done")
"""


@pytest.mark.slow
def test_scripts_without_a_guard_of_main_run_once(published_file, photograph, tmp_path):
    """Where processes are spawned, those of others would run such a script again."""
    Image.fromarray(photograph[:96, :96]).save(tmp_path / "eye.png")
    spec = vesselseg.ModelSpec(name="n", dataset="t", crop=64, stride=42, width=8, scale="native")
    model = vesselseg.load_model(spec, weights=published_file, device="cpu")
    model.save(tmp_path / "narrow.pth")
    (tmp_path / "script.py").write_text(UNGUARDED, encoding="utf-8")
    needed = ("nncf", "pydot", "onnx", "onnxruntime")
    words = ["int8"] if all(map(importlib.util.find_spec, needed)) else []
    finished = subprocess.run(
        [sys.executable, "script.py", *words],
        cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (finished.returncode, finished.stdout) == (0, "done\n"), finished.stderr


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        (
            {
                "/proc/self/cgroup": "0::/jobs/one\n",
                "/sys/fs/cgroup/jobs/cpu.max": "150000 100000\n",
                "/sys/fs/cgroup/jobs/one/cpu.max": "400000 100000\n",
            },
            1.5,
        ),
        (
            {
                "/proc/self/cgroup": "5:memory:/x\n4:cpu,cpuacct:/docker/x\n0::/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        (
            {
                "/proc/self/cgroup": "4:cpu,cpuacct:/\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
    ],
    ids=["no cgroups", "no limit", "half", "of a parent", "version 1", "version 1, no limit"],
)
def test_the_quota_of_a_container(files, expected, monkeypatch):
    pretend_files(monkeypatch, files)
    assert process.cpu_quota() == expected


def pretend_files(monkeypatch, files):
    """Let the system's files of cgroups have these texts, and no others exist."""
    opened = io.open

    def pretend(file, *arguments, **options):
        name = str(file)
        if name in files:
            return io.StringIO(files[name])
        if name.startswith(("/proc/self/cgroup", "/sys/fs/cgroup")):
            raise FileNotFoundError(name)
        return opened(file, *arguments, **options)

    monkeypatch.setattr(io, "open", pretend)
    monkeypatch.setattr(builtins, "open", pretend)


def test_the_name_of_a_group_may_have_colons(monkeypatch):
    group = "/system.slice/docker:eyes"
    quota = {f"/sys/fs/cgroup{group}/cpu.max": "50000 100000\n"}
    pretend_files(monkeypatch, {"/proc/self/cgroup": f"0::{group}\n", **quota})
    assert process.cpu_quota() == 0.5


@pytest.mark.parametrize(
    ("cpu_max", "chosen", "expected"),
    [("150000 100000", None, 2), ("10000 100000", None, 1), ("150000 100000", "3", 3),
     ("max 100000", None, 3)],
)  # fmt: skip
def test_commands_use_no_more_threads_than_the_quota(cpu_max, chosen, expected, monkeypatch):
    pretend_files(monkeypatch, {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": cpu_max})
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if chosen:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        process.limit_threads()
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def test_usable_processors_on_every_system(monkeypatch):
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
        assert process.usable_processors() >= 1
    monkeypatch.setattr(os, "process_cpu_count", lambda: 7, raising=False)
    assert process.usable_processors() == 7


STREAMS = """
import dataclasses, sys, traceback
from pathlib import Path
import vesselseg
from vesselseg import registry
from vesselseg.cli import main
registry.EMBEDDED = dataclasses.replace(registry.EMBEDDED, crop=64, stride=64)  # for doctor
model = vesselseg.load_model("narrow.pth", device="cpu")
sys.stdin = sys.stdout = sys.stderr = None
try:
    model("eye.png", scale="fov")  # which is warned of
    list(model.segment_many(2 * ["eye.png"], progress=True))
    vesselseg.segment_folder("eye.png", "out", model=model, progress=True)
    codes = []
    for words in (
        "models", "doctor", "cache", "download unet_s5-d16_drive",
        "segment eye.png -o mask.png --model narrow.pth", "segment none.png -o none",
        "segment eye.png out -o folder --model narrow.pth", "segment - -o -",
    ):
        sys.stdin = sys.stdout = sys.stderr = None
        codes.append(main(words.split()))
    Path("codes").write_text(str(codes))
except BaseException:
    Path("codes").write_text(traceback.format_exc())
"""


@pytest.mark.slow
def test_programs_without_standard_streams(published_file, photograph, tmp_path):
    """Such as services, and those of pythonw."""
    Image.fromarray(photograph[:96, :96]).save(tmp_path / "eye.png")
    spec = vesselseg.ModelSpec(name="n", dataset="t", crop=64, stride=42, width=8, scale="native",
                               fov_diameter=60)  # fmt: skip
    model = vesselseg.load_model(spec, weights=published_file, device="cpu")
    model.save(tmp_path / "narrow.pth")
    env = {**os.environ, "VESSELSEG_OFFLINE": "1", "VESSELSEG_HOME": str(tmp_path / "cache")}
    run(STREAMS, tmp_path, env=env)
    assert (tmp_path / "codes").read_text() == "[0, 0, 0, 1, 0, 1, 0, 1]"
    assert (tmp_path / "mask.png").exists()


@pytest.mark.slow
def test_messages_do_not_mix_with_results_where_there_is_no_standard_error(photograph, tmp_path):
    """A shell's 2>&- closes it; Python then has none, and `print` would write to the output."""
    Image.fromarray(photograph[:96, :96]).save(tmp_path / "eye.png")
    command = f"{sys.executable} -m vesselseg segment eye.png -o - --scale fit > mask.png 2>&-"
    finished = subprocess.run(command, shell=True, cwd=tmp_path, check=False)
    assert finished.returncode == 2  # the model has no such scale
    assert (tmp_path / "mask.png").read_bytes() == b""
