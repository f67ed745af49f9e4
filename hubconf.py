"""Models for ``torch.hub``.

``torch.hub.load(REPOSITORY, "unet_s5_d16_drive")`` is a network with its weights, and
``torch.hub.load(REPOSITORY, "vesselseg")`` a :class:`vesselseg.Segmenter`, which takes photographs.
REPOSITORY is the address of the repository or, with ``source="local"``, its folder.
"""

from collections.abc import Callable as _Callable

import vesselseg as _vesselseg
from vesselseg import ModelSpec as _ModelSpec

dependencies = ["torch", "numpy", "PIL", "requests", "platformdirs", "filelock", "tqdm"]


def vesselseg(model: str | None = None, **options: object) -> _vesselseg.Segmenter:
    """Return ``vesselseg.load_model(model, **options)``; by default, the embedded model."""
    return _vesselseg.load_model(model, **options)


def _network_of(spec: _ModelSpec) -> _Callable[..., object]:
    """The entry point of one model."""

    def entry_point(pretrained: bool = True) -> object:
        from vesselseg import cache, weights
        from vesselseg.unet import UNet

        if not pretrained:
            return UNet(spec.width, spec.depth, head=spec.head, norm=True)
        return weights.load_network(cache.obtain(spec, weights.load_network).path, spec)

    entry_point.__name__ = spec.name.replace("-", "_")
    entry_point.__doc__ = (
        f"The network of {spec.name}, a torch.nn.Module in evaluation mode.\n\n"
        f"It maps windows (N, 3, H, W), float32 RGB, to logits (N, 2, H, W) of background and "
        f"vessel. Values from 0 to 255 are normalised first, with mean {spec.mean} and standard "
        f"deviation {spec.std}. H and W must be divisible by {2 ** (spec.depth - 1)}. With "
        f"pretrained=False its weights are random, and it is in training mode."
    )
    return entry_point


for _spec in _vesselseg.list_models():
    globals()[_spec.name.replace("-", "_")] = _network_of(_spec)
