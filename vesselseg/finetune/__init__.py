"""Fine-tune a model on your own labelled photographs.

::

    from vesselseg import finetune

    result = finetune.train("photographs", "labels", "model.pth", group="(.+)_[LR]")
    result.before.dice, result.after.dice  # on persons that were not trained on
    vesselseg.load_model("model.pth")

``import vesselseg`` does not import this package.
"""

from __future__ import annotations

from .scores import HeldOutScores
from .training import TrainingResult, train

__all__ = ["HeldOutScores", "TrainingResult", "train"]
