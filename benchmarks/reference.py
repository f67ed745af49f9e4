"""mmsegmentation's own network and sliding window."""

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

CONFIG = "unet-s5-d16_fcn_4xb4-40k_drive-64x64.py"  # for a model spec that names none


class UnusedModule(types.ModuleType):
    """Stands for a compiled module that is imported but never called."""

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def build(spec: ModelSpec) -> torch.nn.Module:
    """mmsegmentation's model with random weights.

    Raises
    ------
    ImportError
        If mmsegmentation is not installed.
    """
    sys.modules.setdefault("mmcv._ext", UnusedModule("mmcv._ext"))  # mmcv-lite lacks it
    import mmseg
    from mmengine.config import Config
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    configs = Path(mmseg.__file__).parent / ".mim" / "configs" / "unet"
    settings = Config.fromfile(configs / (spec.config.rpartition("/")[2] or CONFIG)).model
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


def fill(model: torch.nn.Module, network: UNet, spec: ModelSpec) -> None:
    """Give a model of :func:`build` the weights of a folded network.

    Its batch norms only add the bias: they have mean 0, variance 1, and a weight that cancels
    their epsilon.
    """
    with torch.device("meta"):
        names = UNet(spec.width, spec.depth, spec.head, norm=True).state_dict()
    folded, state = network.state_dict(), model.state_dict()
    for name in names:
        theirs = published_name(name, spec)
        unit, _, value = name.rpartition(".norm.")
        if not unit:
            state[theirs] = folded[name]
        elif value == "bias":
            state[theirs] = folded[f"{unit}.conv.bias"]
        elif value == "weight":
            state[theirs] = torch.full_like(state[theirs], (1 + 1e-5) ** 0.5)
        elif value == "running_mean":
            state[theirs] = torch.zeros_like(state[theirs])
        elif value == "running_var":
            state[theirs] = torch.ones_like(state[theirs])
    model.load_state_dict(state)


def normalise(pixels: NDArray[np.uint8], spec: ModelSpec) -> Tensor:
    """(H, W, 3) uint8 RGB -> (1, 3, H, W) float32, as mmsegmentation's preprocessor does."""
    image = (pixels.astype(np.float32) - np.float32(spec.mean)) / np.float32(spec.std)
    return torch.from_numpy(image).permute(2, 0, 1)[None].contiguous()


def slide(model: Any, pixels: NDArray[np.uint8], spec: ModelSpec) -> Tensor:
    """Logits (2, H, W), as mmsegmentation's `inference_model` computes them, without resampling."""
    meta = {"ori_shape": pixels.shape[:2], "img_shape": pixels.shape[:2], "flip": False}
    device = next(model.parameters()).device
    with torch.no_grad():
        logits: Tensor = model.slide_inference(normalise(pixels, spec).to(device), [meta])
    return logits[0]
