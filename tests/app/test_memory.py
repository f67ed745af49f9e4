"""Which models the page offers, and which are in memory."""

import pytest

from vesselseg import list_models
from vesselseg.app import memory
from vesselseg.app.memory import OfferedModels
from vesselseg.errors import UnknownModelError

EMBEDDED, CACHED, ABSENT = (spec.name for spec in list_models()[:3])


class Model:
    def __init__(self, name):
        self.name = name

    def __call__(self, content):
        return self.name, content


@pytest.fixture
def loaded(monkeypatch):
    """Names of the models that were loaded, where the cache holds two."""
    monkeypatch.setattr(memory, "find_cached", lambda spec: spec.name in (EMBEDDED, CACHED))
    return []


@pytest.fixture
def models(loaded):
    def load(name):
        loaded.append(name)
        return Model(name)

    return OfferedModels(Model("given"), "given (eye.pth)", load)


def test_the_given_one_then_those_in_the_cache(models):
    assert models.names() == ["given (eye.pth)", EMBEDDED, CACHED]


def test_the_given_one_is_not_offered_twice(loaded):
    assert OfferedModels(Model("x"), CACHED, Model).names() == [CACHED, EMBEDDED]
    assert loaded == []


@pytest.mark.parametrize("name", ["", "given (eye.pth)"])
def test_the_given_one_is_not_loaded_again(models, loaded, name):
    assert models.get(name)(b"image") == ("given", b"image")
    assert loaded == []


def test_another_is_loaded_when_chosen_and_kept(models, loaded):
    for name in (CACHED, "", CACHED, EMBEDDED):
        models.get(name)
    assert loaded == [CACHED, EMBEDDED]


def test_one_that_is_not_here_is_rejected_and_not_downloaded(models, loaded):
    with pytest.raises(UnknownModelError, match=f"'{ABSENT}' is not on this machine"):
        models.get(ABSENT)
    assert loaded == []
