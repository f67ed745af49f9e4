"""What a program that uses vesselseg may have set in PyTorch."""

import contextlib

import torch


def setting(change, before, after):
    """A block in which `change` was called with `after`."""

    @contextlib.contextmanager
    def block():
        was = before()
        change(after)
        try:
            yield
        finally:
            change(was)

    return block


def attribute(owner, name, value):
    """A block in which an attribute has another value."""
    return setting(lambda new: setattr(owner, name, new), lambda: getattr(owner, name), value)


SETTINGS = {
    "default device": setting(torch.set_default_device, torch.get_default_device, "meta"),
    "device block": lambda: torch.device("meta"),
    "float64": setting(torch.set_default_dtype, torch.get_default_dtype, torch.float64),
    "float16": setting(torch.set_default_dtype, torch.get_default_dtype, torch.float16),
    "inference mode": torch.inference_mode,
    "no gradients": torch.no_grad,
    "gradients": torch.enable_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(True),
    "deterministic": setting(  # use_deterministic_algorithms does the same, and imports for seconds
        torch.set_deterministic_debug_mode, torch.get_deterministic_debug_mode, "error"
    ),
    "products rounded": setting(
        torch.set_float32_matmul_precision, torch.get_float32_matmul_precision, "medium"
    ),
    "convolutions rounded": attribute(torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
    "TF32 of cuDNN": attribute(torch.backends.cudnn, "allow_tf32", False),
    "cuDNN off": attribute(torch.backends.cudnn, "enabled", False),
    "oneDNN off": setting(
        torch.backends.mkldnn.set_flags, lambda: torch.backends.mkldnn.enabled, False
    ),
}


@contextlib.contextmanager
def all_settings():
    """A block with all of them at once; the later of two that exclude each other counts."""
    with contextlib.ExitStack() as stack:
        for block in SETTINGS.values():
            stack.enter_context(block())
        yield


AT_ONCE = {"float64": SETTINGS["float64"], "all at once": all_settings}
