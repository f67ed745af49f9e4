"""Weights files that are damaged or malicious are rejected, or loaded correctly."""

import io
import struct
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.models import TINY, narrow_shapes, seeded_state, tiny_weights

from vesselseg import CheckpointError, weights


def saved(change=None, **options):
    """A file of the narrower network, its state dict changed by `change`."""
    file = io.BytesIO()
    state = seeded_state(narrow_shapes("fcn", 16), seed=1)
    if change is not None:
        change(state)
    torch.save({"meta": {}, "state_dict": state}, file, **options)
    return file.getvalue()


SPEC = weights.ModelSpec(name="narrower", dataset="test", crop=64, stride=42, width=4)
CONTENT = {"zip": saved(), "legacy": saved(_use_new_zipfile_serialization=False)}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile") / "file.pth"


def load(path, content):
    path.write_bytes(content)
    return weights.build_network(weights.read(path), SPEC).state_dict()


def rejected(path, content):
    with pytest.raises(CheckpointError):
        load(path, content)


@pytest.fixture(scope="module")
def right(path):
    return load(path, CONTENT["zip"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTENT)
def test_truncated_files_are_rejected(kind, path):
    content = CONTENT[kind]
    for part in range(30):
        rejected(path, content[: len(content) * part // 30])


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTENT)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_flipped_bits_are_detected_or_harmless(kind, path, right, data):
    """A legacy file has no checksum, so only a digest could detect a changed value."""
    content = bytearray(CONTENT[kind])
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        state = load(path, bytes(content))
    except CheckpointError:
        return
    assert all(value.isfinite().all() for value in state.values())
    if kind == "zip":
        assert all(torch.equal(state[key], right[key]) for key in right)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_rejected(path, content):
    rejected(path, content)
    rejected(path, b"PK\x03\x04" + content)
    rejected(path, b"\x80\x02" + content)


WEIGHT = "decode_head.convs.0.conv.weight"


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(4, 4, 3, 3, dtype=torch.complex64),
        torch.zeros(4, 4, 3, 3, dtype=torch.bool),
        torch.zeros(4, 4, 3, 3).to_sparse(),
        torch.zeros(4, 4, 3, 3, device="meta"),
        torch.zeros(1).expand(10**9, 10**9),
        torch.zeros(()),
        torch.zeros(0),
    ],
    ids=["complex", "bool", "sparse", "meta", "huge", "scalar", "empty"],
)
def test_tensors_of_another_kind_are_rejected(value, path):
    rejected(path, saved(lambda state: state.update({WEIGHT: value})))


def test_nested_tensors_are_rejected(path):
    nested = torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    rejected(path, saved(lambda state: state.update({WEIGHT: nested})))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scale", 10**400), ("scale", 1e308), ("fov_diameter", 10**400), ("mean", (10**400, 1, 1)),
        ("fit_size", (1, 2**70)), ("stride", 0), ("crop", 2**70), ("unverified", "yes"),
        ("width", torch.zeros(2)), ("unverified", torch.zeros(2)), ("name", torch.zeros(2)),
        ("mask_outside_fov", torch.zeros(2)),
    ],
)  # fmt: skip
def test_values_that_a_model_spec_cannot_have_are_rejected(path, tmp_path, field, value):
    content = torch.load(tiny_weights(tmp_path / "tiny.pth"), weights_only=True)
    content["spec"][field] = value
    torch.save(content, path)
    with pytest.raises(CheckpointError):
        weights.read(path)


def test_a_tensor_in_place_of_the_format_is_rejected(path, tmp_path):
    content = torch.load(tiny_weights(tmp_path / "tiny.pth"), weights_only=True)
    content["format"] = torch.zeros(2)
    torch.save(content, path)
    with pytest.raises(CheckpointError):
        weights.build_network(weights.read(path), TINY)


def rewritten(replace, compression=zipfile.ZIP_STORED):
    """The zip file with some of its members changed; check sums are those of the new content."""
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(CONTENT["zip"])) as source,
        zipfile.ZipFile(target, "w", compression) as archive,
    ):
        for name in source.namelist():
            archive.writestr(name, replace(name, source.read(name)))
    return target.getvalue()


def test_storages_that_declare_more_elements_than_they_hold_are_rejected(path):
    """The count of elements in the pickle is raised to two billion."""
    count = 4 * 4 * 9

    def declare(name, content):
        if not name.endswith("data.pkl"):
            return content
        grown = content.replace(b"K" + bytes([count]), b"J" + struct.pack("<i", 2**31 - 1))
        assert grown != content
        return grown

    rejected(path, rewritten(declare))


def test_compressed_archives_are_rejected_since_they_could_unpack_to_any_size(path):
    bomb = rewritten(
        lambda name, content: bytes(10**7) if name.endswith("data/0") else content,
        zipfile.ZIP_DEFLATED,
    )
    assert len(bomb) < 10**6
    rejected(path, bomb)


def test_overlapping_members_are_rejected(path):
    """One block of bytes listed many times, the other kind of bomb."""
    content = bytearray(CONTENT["zip"])
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as archive:
        entries = archive.infolist()
    end = content.rindex(b"PK\x05\x06")
    size, start = struct.unpack("<II", content[end + 12 : end + 20])
    directory = bytes(content[start : start + size]) * 20
    count = 20 * len(entries)
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(directory), start, 0)
    rejected(path, bytes(content[:start]) + directory + tail)


def test_building_a_network_empties_the_file_to_save_memory(path):
    path.write_bytes(CONTENT["zip"])
    file = weights.read(path)
    weights.build_network(file, SPEC)
    assert not file.state
    with pytest.raises(CheckpointError, match="missing"):
        weights.build_network(file, SPEC)
