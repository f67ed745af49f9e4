"""Correcting a folder of photographs, without a viewer: order, states and files."""

import numpy as np
import pytest

from vesselseg import DatasetError, ImageError
from vesselseg.corrections import find_corrections, read_correction
from vesselseg.napari.correcting import Painting, Session


@pytest.fixture
def session(folder):
    return Session(folder)


def painting(label=1):
    labels = np.zeros((40, 44), np.uint8)
    labels[10:20, 5:30] = label
    return Painting(labels, {"model": "tiny"})


def names(session):
    return [path.name for path in session.photographs]


def drafts(folder):
    return sorted(path.name for path in folder.glob("corrections/drafts/*"))


class TestSaving:
    def test_painting_is_a_draft_until_it_is_done(self, session, folder):
        session.save(session.shown, painting())
        assert session.state(session.shown) == "draft"
        assert find_corrections(folder) == []
        session.mark_done(session.shown, painting())
        assert session.state(session.shown) == "done"
        [(file, correction)] = find_corrections(folder)
        assert (file.name, correction.name) == ("a.png", "a.png")
        assert drafts(folder) == []

    def test_corrections_hold_vessels_and_what_is_not_known(self, session):
        labels = np.zeros((40, 44), np.uint8)
        labels[1, 1], labels[2, 2], labels[3, 3] = 1, 2, 3  # 3 is shown as background
        session.mark_done(session.shown, Painting(labels, {}))
        values = read_correction(session.corrections[session.shown])
        assert (values[1, 1], values[2, 2], values[3, 3], values[4, 4]) == (255, 128, 0, 0)

    @pytest.mark.parametrize("write", [Session.save, Session.mark_done])
    def test_another_session_loads_what_was_painted(self, write, session, folder):
        labels = painting().labels
        labels[0] = 2
        write(session, session.shown, Painting(labels, {"model": "tiny"}))
        loaded = Session(folder).load(session.shown)
        assert np.array_equal(loaded.labels, labels)
        assert loaded.provenance == {"model": "tiny"}

    def test_all_of_a_draft_may_be_unknown(self, session):
        labels = np.full((40, 44), 2, np.uint8)
        session.save(session.shown, Painting(labels, {}))
        assert np.array_equal(session.load(session.shown).labels, labels)

    def test_painting_on_what_is_done_is_saved_there(self, session, folder):
        session.mark_done(session.shown, painting())
        session.save(session.shown, painting(label=2))
        assert session.state(session.shown) == "done"
        assert session.load(session.shown).labels.max() == 2
        assert drafts(folder) == []

    def test_a_correction_can_become_a_draft_again(self, session, folder):
        session.mark_done(session.shown, painting())
        session.mark_not_done(session.shown, painting())
        assert session.state(session.shown) == "draft"
        assert find_corrections(folder) == []
        assert np.array_equal(session.load(session.shown).labels, painting().labels)


class TestProposals:
    def test_come_first_for_the_photograph_that_is_shown(self, session, model):
        session.shown = session.photographs[1]
        order = [path.name for path in session.propose(lambda: model)]
        assert order == ["b.png", "c.png", "a.png"]

    def test_are_what_the_model_finds(self, session, model):
        assert session.load(session.shown) is None
        list(session.propose(lambda: model))
        expected = model(session.shown)
        loaded = session.load(session.shown)
        assert np.array_equal(loaded.labels, expected.mask)
        assert loaded.provenance == expected.provenance

    def test_leave_out_what_somebody_has_corrected(self, session, model):
        first, second, third = session.photographs
        session.mark_done(first, painting())
        session.save(second, painting())
        assert list(session.propose(lambda: model)) == [third]

    def test_no_model_is_loaded_for_nothing(self, session):
        for path in session.photographs:
            session.save(path, painting())
        assert list(session.propose(lambda: pytest.fail("loaded"))) == []

    def test_another_model_starts_again(self, session, model):
        earlier = session.propose(lambda: model)
        next(earlier)
        session.propose(lambda: model)
        next(earlier)  # a thread that has not ended yet
        assert session.load(session.shown) is None

    def test_a_photograph_that_cannot_be_read_is_told_when_it_is_shown(self, folder, model):
        (folder / "b.png").write_bytes(b"damaged")
        session = Session(folder)
        assert len(list(session.propose(lambda: model))) == 3
        with pytest.raises(ImageError, match=r"b\.png"):
            session.load(folder / "b.png")


class TestOrder:
    def test_drafts_come_first_and_what_is_done_last(self, session, folder):
        a, _, c = session.photographs
        session.mark_done(a, painting())
        session.save(c, painting())
        assert names(Session(folder)) == ["c.png", "b.png", "a.png"]

    def test_what_is_most_worth_correcting_comes_first(self, session, model):
        list(session.propose(lambda: model))
        for path, familiarity in zip(session.photographs, (0.9, 0.8, 0.7), strict=True):
            session.proposals[path].provenance["familiarity"] = familiarity
        session.sort()
        assert names(session) == ["c.png", "b.png", "a.png"]

    def test_neighbours_end_at_both_ends(self, session):
        first, second, third = session.photographs
        assert (session.neighbour(1), session.neighbour(-1)) == (second, first)
        session.shown = third
        assert (session.neighbour(1), session.neighbour(-1)) == (third, second)

    def test_the_next_to_correct_is_not_done(self, session):
        first, second, third = session.photographs
        session.shown = third
        session.mark_done(first, painting())
        assert session.next_to_correct() == second
        session.mark_done(second, painting())
        assert session.next_to_correct() is None


class TestErrors:
    def test_a_folder_without_photographs(self, tmp_path):
        with pytest.raises(DatasetError, match="no photograph"):
            Session(tmp_path)

    def test_no_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            Session(tmp_path / "missing")

    def test_a_damaged_draft(self, session, folder):
        session.save(session.shown, painting())
        [draft] = folder.glob("corrections/drafts/*")
        draft.write_bytes(b"damaged")
        with pytest.raises(ImageError, match=r"drafts.*a\.png\.png"):
            session.load(session.shown)
