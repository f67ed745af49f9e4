"""A training of a few steps on drawn photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import drawn
from support.fine_tuning import NAMES, start_weights

from vesselseg import finetune
from vesselseg.finetune import windows


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file to start from."""
    return start_weights(tmp_path_factory.mktemp("start") / "start.pth")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Five photographs of three subjects in images/, with labels/."""
    return drawn.pairs(tmp_path / "data", names=NAMES)


@pytest.fixture
def train(
    start: Path,
    data: Path,
    one_thread: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., finetune.TrainingResult]:
    """``finetune.train`` on `data`, with four iterations by default."""
    monkeypatch.setattr(windows, "SIDE", 64)  # quick, and not much larger than the photographs

    def run(output: Path, **options: object) -> finetune.TrainingResult:
        defaults = {
            "model": start, "group": "(.+)_", "iterations": 4, "evaluate_every": 2,
            "batch_size": 1, "device": "cpu", "progress": False,
            "labels": data / "labels",
        }  # fmt: skip
        return finetune.train(data / "images", output=output, **{**defaults, **options})

    return run
