"""mmsegmentation's own model of a spec, and its own sliding window."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vesselseg import ModelSpec
from vesselseg.unet import UNet
from vesselseg.weights import published_name

_CONFIG = "unet-s5-d16_fcn_4xb4-40k_drive-64x64.py"  # where a spec names none of its own


def build(spec: ModelSpec) -> torch.nn.Module:
    """The model with mmsegmentation's random weights.

    Raises
    ------
    ImportError
        If mmsegmentation is not installed.
    """
    # Its wheel imports a compiled module of mmcv that these models never call.
    sys.modules.setdefault("mmcv._ext", _Unused("mmcv._ext"))
    import mmseg
    from mmengine.config import Config
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    config = spec.config.rpartition("/")[2] or _CONFIG
    settings = Config.fromfile(
        Path(mmseg.__file__).parent / ".mim" / "configs" / "unet" / config
    ).model
    settings.pretrained = None
    head, auxiliary = settings.decode_head, settings.auxiliary_head
    settings.backbone.base_channels = head.in_channels = spec.width
    auxiliary.in_channels = 2 * spec.width
    if spec.head == "fcn":
        head.channels = spec.width
    for part in (settings.backbone, head, auxiliary):
        part.norm_cfg = {"type": "BN", "requires_grad": True}
    settings.test_cfg.crop_size = (spec.crop, spec.crop)
    settings.test_cfg.stride = (spec.stride, spec.stride)
    model: torch.nn.Module = MODELS.build(settings).eval()
    return model


class _Unused(types.ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def fill(model: torch.nn.Module, network: UNet, spec: ModelSpec) -> None:
    """Give a model of :func:`build` the weights of a folded network.

    Its batch norms become the addition of a bias: mean 0, variance 1, and a weight that undoes
    what their epsilon does.
    """
    with torch.device("meta"):
        wanted = UNet(spec.width, spec.depth, spec.head, norm=True).state_dict()
    folded, state = network.state_dict(), model.state_dict()
    for ours in wanted:
        theirs = published_name(ours, spec)
        if theirs.endswith("num_batches_tracked"):
            continue
        unit, _, value = ours.rpartition(".norm.")
        if not unit:
            state[theirs] = folded[ours]
        elif value == "bias":
            state[theirs] = folded[f"{unit}.conv.bias"]
        elif value == "weight":
            state[theirs] = torch.full_like(state[theirs], (1 + 1e-5) ** 0.5)
        else:
            fresh = torch.zeros_like if value == "running_mean" else torch.ones_like
            state[theirs] = fresh(state[theirs])
    model.load_state_dict(state)


def normalise(pixels: NDArray[np.uint8], spec: ModelSpec) -> Tensor:
    """(H, W, 3) uint8 RGB -> (1, 3, H, W) float32, as mmsegmentation's preprocessor does."""
    image = (pixels.astype(np.float32) - np.float32(spec.mean)) / np.float32(spec.std)
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()


def slide(model: Any, pixels: NDArray[np.uint8], spec: ModelSpec) -> Tensor:
    """Logits (2, H, W): what `inference_model` does, but for the resampling."""
    meta = {"ori_shape": pixels.shape[:2], "img_shape": pixels.shape[:2], "flip": False}
    device = next(model.parameters()).device
    with torch.no_grad():
        logits: Tensor = model.slide_inference(normalise(pixels, spec).to(device), [meta])
    return logits[0]
