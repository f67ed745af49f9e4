"""The words for devices and precisions: each has one, and those that everybody knows mean it."""

import pytest
import torch
from support.drawn import photographs
from support.models import tiny_weights

import vesselseg
from vesselseg import DeviceError, OptionError
from vesselseg.batch.folder import run_here
from vesselseg.choices import canonical_device, canonical_precision
from vesselseg.cli import build_parser


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        (("float32", "fp32", "FP32", "float", "single", torch.float32), "float32"),
        (("bfloat16", "bf16", "BF16", torch.bfloat16), "bfloat16"),
        (("float16", "fp16", "half", torch.half), "float16"),
        (("int8", "INT8"), "int8"),
        (("auto",), "auto"),
        ((None,), None),
        (("int4",), "int4"),  # no word for anything: an error follows
    ],
)
def test_each_precision_has_the_words_that_everybody_knows(words, meaning):
    assert {canonical_precision(word) for word in words} == {meaning}


@pytest.mark.parametrize(
    ("word", "meaning"),
    [("gpu", "cuda"), ("GPU", "cuda"), ("gpu:1", "cuda:1"), ("CUDA:0", "cuda:0"), ("cpu", "cpu"),
     ("auto", "auto"), (torch.device("cpu"), torch.device("cpu")), ("cdua", "cdua")],
)  # fmt: skip
def test_each_device_has_the_words_that_everybody_knows(word, meaning):
    assert canonical_device(word) == meaning


def test_every_call_that_takes_a_precision_knows_the_words():
    model = vesselseg.load_model(device="CPU", precision="bf16")
    assert model.precision == "bfloat16"
    assert model.to(precision="fp32").precision == "float32"
    grey = torch.zeros(64, 64, dtype=torch.uint8)
    assert vesselseg.segment(grey, model=model, precision="bf16").provenance["precision"] == (
        "bfloat16"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="the GPU is there")
def test_gpu_is_cuda_in_every_call_that_takes_a_device(tmp_path):
    from vesselseg.finetune import train

    model = vesselseg.load_model(device="cpu")
    for call in (
        lambda: vesselseg.load_model(device="gpu"),
        lambda: model.to("gpu"),
        lambda: train(tmp_path, tmp_path, tmp_path / "model.pth", device="gpu"),
    ):
        with pytest.raises(DeviceError, match="Device 'cuda' is not available here"):
            call()


def test_a_run_on_ray_is_resumed_whatever_the_word(tmp_path, monkeypatch):
    ray = pytest.importorskip("vesselseg.ray")
    pytest.importorskip("ray", reason='pip install "vesselseg[ray]"')
    options = []

    def run_on_cluster(*arguments, **each):
        options.append(each)
        run_here(*arguments)

    monkeypatch.setattr(ray, "run_on_cluster", run_on_cluster)
    photographs(tmp_path / "p", ["eye.png"])
    model = vesselseg.load_model(tiny_weights(tmp_path / "tiny.pth"), device="cpu")
    summaries = [
        ray.segment_dataset(
            str(tmp_path / "p"), str(tmp_path / "out"), model=model, device="CPU",
            precision=precision, manifest=str(tmp_path / "m.jsonl"), resume=True,
        )
        for precision in ("float32", "fp32")
    ]  # fmt: skip
    assert [(each.segmented, each.skipped) for each in summaries] == [(1, 0), (0, 1)]
    assert {(each["device"], each["precision"]) for each in options} == {("cpu", "float32")}


def test_the_command_takes_the_words():
    words = ["segment", "eye.png", "--device", "GPU:1", "--precision", "half"]
    parsed = build_parser()[0].parse_args(words)
    assert (parsed.device, parsed.precision) == ("cuda:1", "float16")


def test_other_words_are_an_error_with_a_suggestion():
    with pytest.raises(OptionError, match="Did you mean 'bfloat16'"):
        vesselseg.load_model(device="cpu", precision="bfloat61")
