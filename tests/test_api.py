"""From names, files and specs to models; and ``segment``."""

import dataclasses
import os
import threading
from functools import partial

import numpy as np
import pytest
import torch
from support import EXAMPLE
from support.models import NARROW, SHAPES, seeded_state

import vesselseg
from vesselseg import (
    CheckpointError,
    ModelSpec,
    OptionError,
    UnknownModelError,
    VesselsegError,
    api,
    files,
)
from vesselseg.registry import EMBEDDED


@pytest.fixture(scope="module")
def full_size_file(tmp_path_factory):
    """Weights of the published size, with a PSPNet head."""
    path = tmp_path_factory.mktemp("weights") / "pspnet.pth"
    torch.save({"meta": {}, "state_dict": seeded_state(SHAPES["pspnet"], 0)}, path)
    return path


class TestLoadModel:
    @pytest.mark.slow
    def test_a_name_with_a_local_file_loads_that_file(self, full_size_file):
        model = vesselseg.load_model("unet_s5-d16_pspnet_hrf", weights=full_size_file)
        assert (model.spec.crop, model.spec.stride) == (256, 170)
        assert model.spec.name == "unet_s5-d16_pspnet_hrf"

    @pytest.mark.slow
    def test_a_file_of_another_head_is_rejected(self, full_size_file):
        with pytest.raises(CheckpointError, match="seems to have the head 'pspnet'"):
            vesselseg.load_model("unet_s5-d16_drive", weights=full_size_file)

    def test_a_spec_of_ones_own_can_be_loaded(self, published_file):
        spec = ModelSpec(name="mine", dataset="my clinic", crop=48, stride=32, width=8)
        assert vesselseg.load_model(spec, weights=str(published_file)).spec is spec

    def test_a_saved_model_says_what_it_is(self, model, tmp_path):
        model.save(tmp_path / "mine.pth")
        for path in (tmp_path / "mine.pth", str(tmp_path / "mine.pth")):
            assert vesselseg.load_model(path).spec.name == "narrow"
            assert vesselseg.load_model(weights=path).spec.name == "narrow"

    def test_a_saved_model_may_follow_another_spec(self, model, tmp_path):
        model.save(tmp_path / "mine.pth")
        spec = dataclasses.replace(NARROW, name="other", stride=64)
        other = vesselseg.load_model(spec, weights=tmp_path / "mine.pth")
        assert other.spec.stride == 64

    def test_a_published_file_alone_is_known_by_its_digest(self, published_file, monkeypatch):
        digest = files.sha256(published_file)
        source = vesselseg.Source(f"https://example.org/a-{digest[:8]}.pth", digest[:8])
        spec = dataclasses.replace(NARROW, name="known", sources=(source,))
        monkeypatch.setattr(api, "REGISTRY", {"known": spec})
        assert vesselseg.load_model(published_file).spec is spec

    def test_an_unknown_file_alone_asks_for_its_name(self, published_file):
        with pytest.raises(CheckpointError, match="pass the file as its weights"):
            vesselseg.load_model(published_file)

    def test_an_unknown_name_is_an_error_with_a_suggestion(self):
        with pytest.raises(UnknownModelError, match="Did you mean 'unet_s5-d16_stare'"):
            vesselseg.load_model("unet_s5-d16-stare")

    @pytest.mark.parametrize("model", ["absent.pth", "folder/absent.pt"])
    def test_a_missing_file_is_an_error(self, model):
        with pytest.raises(FileNotFoundError, match="no weights file"):
            vesselseg.load_model(model)

    def test_two_files_are_rejected(self, published_file):
        with pytest.raises(OptionError, match="Pass the model's name"):
            vesselseg.load_model(published_file, weights=published_file)

    @pytest.mark.parametrize("model", [3, ["unet"], object()])
    def test_other_types_are_rejected(self, model):
        with pytest.raises(OptionError, match="a name, a path or a ModelSpec"):
            vesselseg.load_model(model)

    @pytest.mark.parametrize("option", ["device", "precision", "backend"])
    @pytest.mark.parametrize("call", [vesselseg.load_model, partial(vesselseg.segment, EXAMPLE)])
    def test_options_of_other_types_are_rejected(self, call, option):
        with pytest.raises(VesselsegError, match=option):
            call(**{option: ["cpu"]})

    @pytest.mark.slow
    def test_the_stride_can_be_chosen(self, published_file, photograph):
        model = vesselseg.load_model(NARROW, weights=published_file, device="cpu", stride=20)
        spec = dataclasses.replace(NARROW, stride=20)
        expected = vesselseg.load_model(spec, weights=published_file, device="cpu")
        assert model.spec == spec
        assert np.array_equal(model(photograph).probability, expected(photograph).probability)
        assert model(photograph).provenance["stride"] == 20
        with pytest.raises(OptionError, match="stride is 65; it must be from 1 to crop, 64"):
            vesselseg.load_model(NARROW, weights=published_file, stride=65)

    def test_batch_size_is_the_callers(self, published_file):
        model = vesselseg.load_model(NARROW, weights=published_file, batch_size=5)
        assert model.batch_size == 5
        assert model.to("cpu").batch_size == 5

    @pytest.mark.parametrize("name", ["batch_size", "max_pixels"])
    def test_sizes_that_are_no_positive_integers_are_rejected(self, name, published_file):
        with pytest.raises(OptionError, match=f"{name} is 0; it must be a positive integer"):
            vesselseg.load_model(NARROW, weights=published_file, **{name: 0})


@pytest.mark.parametrize("name", ["drive", "stare", "hrf", "unet_s5-d16", "chase"])
@pytest.mark.parametrize("kind", ["folder", "file", "pipe", "link to nothing"])
def test_what_is_called_like_a_data_set_does_not_hide_the_suggestion(
    name, kind, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    {"folder": path.mkdir, "file": path.touch, "pipe": lambda: os.mkfifo(path),
     "link to nothing": lambda: path.symlink_to("nowhere")}[kind]()  # fmt: skip
    with pytest.raises(UnknownModelError, match=rf"no model '{name}'\. Did you mean"):
        vesselseg.load_model(name)


@pytest.mark.parametrize("name", ["x.pth", "x.PTH", "x.Onnx", "./drive", "folder/drive"])
def test_an_ending_or_a_folder_makes_a_path(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        vesselseg.load_model(name)


def test_empty_text_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownModelError, match="no model ''"):
        vesselseg.load_model("")


class TestSegment:
    @pytest.fixture(autouse=True)
    def fresh(self):
        vesselseg.clear_models()
        yield
        vesselseg.clear_models()

    @pytest.fixture
    def counted(self, monkeypatch):
        """The calls of load_model."""
        calls = []

        def load(model, **options):
            calls.append(model)
            return vesselseg.load_model(model, **options)

        monkeypatch.setattr(api, "load_model", load)
        return calls

    @pytest.fixture
    def saved(self, model, tmp_path):
        model.save(tmp_path / "mine.pth")
        return tmp_path / "mine.pth"

    def test_takes_a_loaded_model(self, model, photograph, counted):
        result = vesselseg.segment(photograph, model=model)
        assert np.array_equal(result.mask, model(photograph).mask)
        assert not counted

    def test_loads_a_model_once(self, saved, photograph, counted):
        for _ in range(3):
            vesselseg.segment(photograph, model=saved)
        assert len(counted) == 1

    @pytest.mark.slow
    def test_loads_a_model_once_for_many_threads(self, saved, photograph, counted):
        masks = []
        threads = [
            threading.Thread(
                target=lambda: masks.append(vesselseg.segment(photograph, model=saved).mask)
            )
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(counted) == 1
        assert len(masks) == 8
        assert all(np.array_equal(mask, masks[0]) for mask in masks)

    def test_loading_one_model_lets_other_threads_segment(
        self, saved, model, photograph, monkeypatch
    ):
        vesselseg.segment(photograph, model=saved)
        loading, go = threading.Event(), threading.Event()

        def load(*_, **__):
            loading.set()
            assert go.wait(60)
            return model

        monkeypatch.setattr(api, "load_model", load)
        slow = threading.Thread(target=vesselseg.segment, args=(photograph,))
        slow.start()
        assert loading.wait(60)
        vesselseg.segment(photograph, model=saved)  # would wait for ever behind a common lock
        go.set()
        slow.join()

    def test_a_model_that_fails_to_load_is_tried_again(self, saved, photograph, tmp_path):
        with pytest.raises(FileNotFoundError):
            vesselseg.segment(photograph, model=tmp_path / "later.pth")
        saved.rename(tmp_path / "later.pth")
        assert vesselseg.segment(photograph, model=tmp_path / "later.pth").mask.shape == (177, 177)

    @pytest.mark.parametrize(
        "choice", [{"device": "cuda:99"}, {"precision": "bfloat16"}, {"backend": "openvino"}]
    )
    def test_a_choice_that_is_not_the_loaded_models_is_an_error(self, choice, model, photograph):
        (name,) = choice
        with pytest.raises(OptionError, match=f"{name} is .*, but the model was loaded with"):
            vesselseg.segment(photograph, model=model, **choice)

    @pytest.mark.slow
    def test_the_loaded_models_own_choices_fit(self, model, photograph):
        expected = model(photograph).mask
        for choice in (
            {"device": "cpu"},
            {"device": torch.device("cpu")},
            {"device": "auto"},
            {"precision": "float32"},
            {"precision": "auto"},
            {"backend": "torch"},
        ):
            found = vesselseg.segment(photograph, model=model, **choice).mask
            assert np.array_equal(found, expected)

    def test_models_that_fail_to_load_take_the_place_of_none(
        self, saved, photograph, counted, tmp_path
    ):
        vesselseg.segment(photograph, model=saved)
        for number in range(20):
            with pytest.raises(FileNotFoundError):
                vesselseg.segment(photograph, model=tmp_path / f"missing-{number}.pth")
        vesselseg.segment(photograph, model=saved)
        assert counted.count(saved) == 1

    def test_the_models_that_were_used_last_are_kept(self):
        cache, loaded = api.ModelCache(size=2), []
        for name in "abacab":  # b left when c came
            cache.get(name, lambda name=name: loaded.append(name) or name)
        assert loaded == ["a", "b", "c", "b"]

    def test_a_file_that_was_replaced_is_loaded_again(self, saved, photograph, published_file):
        vesselseg.segment(photograph, model=saved)
        changed = dataclasses.replace(NARROW, name="changed")
        vesselseg.load_model(changed, weights=published_file).save(saved)
        result = vesselseg.segment(photograph, model=saved)
        assert result.provenance["model"] == "changed"

    @pytest.mark.slow
    def test_default_is_the_embedded_model(self, photograph):
        result = vesselseg.segment(photograph, device="cpu", scale="native")
        assert result.provenance["model"] == EMBEDDED.name


class TestBackend:
    @pytest.mark.parametrize("backend", ["cuda", "tensorflow", ""])
    def test_an_unknown_one_is_rejected(self, backend):
        with pytest.raises(OptionError, match="allowed are 'torch', 'onnxruntime', 'openvino'"):
            vesselseg.load_model(backend=backend)

    def test_a_misspelt_one_is_recognised(self):
        with pytest.raises(OptionError, match="Did you mean 'openvino'"):
            vesselseg.segment("eye.jpg", backend="open-vino")
