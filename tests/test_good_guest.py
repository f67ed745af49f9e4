"""The library changes no state of its process, and neither inputs nor settings of the host."""

import ast
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from PIL import Image
from support import EXAMPLE

STATE = """
import logging, os, random, signal, socket, sys, threading, warnings
import numpy, torch
from PIL import Image, ImageFile

def reject(*arguments, **options):
    raise AssertionError("a socket was opened")
socket.socket = reject

def state():
    cudnn = torch.backends.cudnn
    return {
        "root logger": (logging.root.level, list(logging.root.handlers)),
        "our loggers": [
            name for name, logger in logging.root.manager.loggerDict.items()
            if name.startswith("vesselseg") and getattr(logger, "handlers", None)
        ],
        "warning filters": list(warnings.filters),
        "random": random.getstate(),
        "numpy": str(numpy.random.get_state()),
        "torch": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (cudnn.enabled, cudnn.benchmark, cudnn.deterministic,
                  cudnn.conv.fp32_precision),
        "matmul": torch.get_float32_matmul_precision(),
        "safe globals": set(torch.serialization.get_safe_globals()),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES),
        "working directory": os.getcwd(),
        "environment": dict(os.environ),
        "signals": [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "threads alive": threading.active_count(),
    }

torch.ones(1) + 1  # whatever torch sets up at first use is not ours
Image.open(sys.argv[1]).load()
torch.get_num_interop_threads()
before = state()
"""

USE = """
import vesselseg
vesselseg.list_models()
vesselseg.field_of_view(sys.argv[1])
result = vesselseg.segment(sys.argv[1], device="cpu", scale=0.3)
result.overlay()
result.save("mask.png")
model = vesselseg.load_model(device="cpu", precision="bfloat16")
model(numpy.zeros((40, 50), numpy.uint8), scale=0.5)
model.save("model.pth")
list(vesselseg.load_model("model.pth").segment_many([sys.argv[1]], scale=0.1))
try:
    vesselseg.segment(b"no image")
except vesselseg.ImageError:
    pass
vesselseg.clear_models()
after = state()
changed = [name for name in before if before[name] != after[name]]
assert not changed, changed
"""


def run(code, folder):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(EXAMPLE)],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_using_the_library_changes_no_global_state(tmp_path):
    finished = run(STATE + "logging.disable(logging.WARNING)\n" + USE, tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (finished.stdout, finished.stderr) == ("", "")


@pytest.mark.slow
def test_changes_of_global_state_are_detected(tmp_path):
    changes = {
        "torch": "torch.rand(1)",
        "threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
        "environment": "os.environ['A'] = 'b'",
        "root logger": "logging.basicConfig()",
        "warning filters": "warnings.simplefilter('ignore')",
    }
    check = USE[USE.index("after = state()") :]
    finished = run("\n".join([STATE, *changes.values(), check]), tmp_path)
    assert finished.returncode == 1
    named = finished.stderr.rpartition("AssertionError: ")[2]
    assert sorted(ast.literal_eval(named)) == sorted(changes)


@pytest.mark.slow
def test_inputs_are_never_modified_and_outputs_own_their_memory(model, photograph):
    array = photograph.copy()
    array.flags.writeable = False
    tensor = torch.from_numpy(photograph.copy()).permute(2, 0, 1)
    image = Image.fromarray(photograph)
    first = model(array)
    for given in (array, tensor, image):
        result = model(given)
        logits = model.logits(given)
        logits.fill_(0)
        result.mask[:] = False
        result.probability[:] = 0
        result.field_of_view[:] = False
        result.overlay(opacity=1)
    assert np.array_equal(array, photograph)
    assert np.array_equal(tensor.permute(1, 2, 0).numpy(), photograph)
    assert np.array_equal(np.asarray(image), photograph)
    again = model(photograph)
    assert np.array_equal(again.mask, first.mask)
    assert np.array_equal(again.field_of_view, first.field_of_view)


def test_a_later_change_of_the_input_does_not_reach_the_overlay(model, photograph):
    array = photograph.copy()
    result = model(array)
    before = np.asarray(result.overlay())
    array[:] = 0
    assert np.array_equal(np.asarray(result.overlay()), before)
