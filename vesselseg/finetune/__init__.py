"""Fine-tune a model on your own labelled photographs.

::

    from vesselseg import finetune

    result = finetune.train("photographs", "labels", "model.pth", group="(.+)_[LR]")
    result.before.dice, result.after.dice  # on held-out subjects
    vesselseg.load_model("model.pth")

``import vesselseg`` does not load this package; import it yourself.
"""

from __future__ import annotations

from .scores import HeldOutScores
from .training import TrainingResult, train

__all__ = ["HeldOutScores", "TrainingResult", "train"]
