"""Headers, sound and hostile. A header is never believed: what it says is held against the file's size."""

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
from gguf import GGUFEndian, GGUFValueType, GGUFWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from servery.engine.errors import LoadError
from servery.engine.gguf.header import Header, TensorInfo, read_header
from tests.engine.gguf.exporter import finish

PLAIN = {
    "a.text": ("naïve", GGUFValueType.STRING),
    "a.count": (7, GGUFValueType.UINT32),
    "a.small": (-3, GGUFValueType.INT8),
    "a.share": (0.5, GGUFValueType.FLOAT32),
    "a.large": (1 << 40, GGUFValueType.UINT64),
    "a.exact": (0.1, GGUFValueType.FLOAT64),
    "a.flag": (True, GGUFValueType.BOOL),
}


def write(path, **options):
    writer = GGUFWriter(path, "llama", **options)
    for key, (value, kind) in PLAIN.items():
        writer.add_key_value(key, value, kind)
    writer.add_array("a.texts", ["one", "", "drei"])
    writer.add_array("a.numbers", [3, 1, 2])
    writer.add_array("a.flags", [True, False])
    writer.add_tensor("first", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("second", np.arange(5, dtype=np.float16))
    finish(writer)
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "model.gguf")


def refusal(path):
    with pytest.raises(LoadError) as caught:
        read_header(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def raw(path, *parts):
    """A file that begins as GGUF version 3; numbers are written as uint64."""
    data = b"".join(part if isinstance(part, bytes) else struct.pack("<Q", part) for part in parts)
    path.write_bytes(b"GGUF" + struct.pack("<I", 3) + data)
    return path


def text(value):
    return struct.pack("<Q", len(value)) + value


def test_metadata_and_tensors_come_out_as_they_were_written(file):
    header = read_header(file)
    assert header == Header(
        file, header.metadata, header.tensors, data_offset=header.data_offset, file_bytes=file.stat().st_size
    )
    assert {key: header.metadata[key] for key in PLAIN} == {key: value for key, (value, _) in PLAIN.items()}
    assert header.metadata["general.architecture"] == "llama"
    assert header.metadata["a.texts"].strings() == ["one", "", "drei"]
    assert header.metadata["a.numbers"].numbers() == [3, 1, 2]
    assert header.metadata["a.flags"].numbers() == [True, False]
    assert list(header.tensors.values()) == [TensorInfo("first", (4, 3), 0, 0), TensorInfo("second", (5,), 1, 64)]
    start = header.data_offset + 64
    assert file.read_bytes()[start : start + 10] == np.arange(5, dtype=np.float16).tobytes()


def test_arrays_of_the_wrong_kind_are_refused_by_name(file):
    metadata = read_header(file).metadata
    with pytest.raises(LoadError, match=r"a\.numbers is a list of 3 numbers; it must be a list of strings"):
        metadata["a.numbers"].strings()
    with pytest.raises(LoadError, match=r"a\.texts is a list of 3 strings; it must be a list of numbers"):
        metadata["a.texts"].numbers()


@pytest.mark.parametrize("content", [b"", b"GG", b"PK\x03\x04" + bytes(40), b"GGUF" + bytes(19)])
def test_what_is_no_gguf_file_is_refused(content, tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert refusal(path) == f"{path} is not a GGUF file: it does not begin with GGUF."


def test_a_file_that_cannot_be_opened_is_refused(tmp_path):
    assert f"{tmp_path} is not a file." == refusal(tmp_path)
    assert f"{tmp_path}/no.gguf cannot be read: No such file or directory." == refusal(tmp_path / "no.gguf")


@pytest.mark.parametrize("version", [0, 1, 4, 1000])
def test_another_version_is_refused(version, file):
    file.write_bytes(b"GGUF" + struct.pack("<I", version) + file.read_bytes()[8:])
    assert f"is a GGUF file of version {version}; versions 2 and 3 can be read" in refusal(file)


def test_a_big_endian_file_is_refused(tmp_path):
    path = write(tmp_path / "model.gguf", endianess=GGUFEndian.BIG)
    assert "is a big-endian GGUF file" in refusal(path)


def test_a_file_cut_anywhere_in_its_header_is_refused(file):
    whole = file.read_bytes()
    for length in range(24, read_header(file).data_offset - 32, 7):
        file.write_bytes(whole[:length])
        assert "truncated" in refusal(file)


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ((1 << 60, 0, b"x" * 100), "the number of tensors is 1152921504606846976; at most 262144 can be read"),
        ((0, 1 << 60, b"x" * 100), "the number of metadata entries is 1152921504606846976"),
        ((0, 1, 1 << 62, b"x" * 100), "the key of metadata entry 0 is said to have 4611686018427387904 bytes"),
        ((0, 1, text(b"k"), b"\x08\0\0\0", 1 << 62, b"x" * 99), "k is said to have 4611686018427387904 bytes"),
        ((0, 1, text(b"k"), b"\x08\0\0\0", 1 << 20, b"x" * 99), "before k. It is truncated"),
        ((0, 1, text(b"k"), b"\x09\0\0\0", b"\x08\0\0\0", 1 << 62), "the length of k is 4611686018427387904"),
        ((0, 1, text(b"k"), b"\x09\0\0\0", b"\x04\0\0\0", 1 << 22, b"x" * 99), "the length of k is 4194304"),
        ((0, 1, text(b"k"), b"\x09\0\0\0", b"\x08\0\0\0", 2, text(b"a"), 1 << 61), "before k. It is truncated"),
        ((0, 1, text(b"k"), b"\x09\0\0\0", b"\x09\0\0\0", 1, b"x" * 9), "k is a list of lists"),
        ((0, 1, text(b"k"), b"\x09\0\0\0", b"\x63\0\0\0", 1, b"x" * 9), "k is a list of values of type 99"),
        ((0, 1, text(b"k"), b"\x63\0\0\0", b"x" * 99), "k has the type 99, which GGUF does not know"),
        ((0, 1, text(b"\xff"), b"\x04\0\0\0", b"x" * 99), "the key of metadata entry 0 is not valid UTF-8"),
        ((0, 1, text(b"k"), b"\x08\0\0\0", text(b"\xff")), "k is not valid UTF-8"),
        ((0, 2, *(text(b"k"), b"\x00\0\0\0", b"1") * 2), "the key k stands twice in the metadata"),
        ((1, 0, text(b"t"), b"\x05\0\0\0", b"x" * 99), "tensor t has 5 dimensions; 1 to 4 are possible"),
        ((1, 0, text(b"t"), b"\x00\0\0\0", b"x" * 99), "tensor t has 0 dimensions; 1 to 4 are possible"),
        ((1, 0, text(b"t"), b"\x02\0\0\0", 4, 0, b"x" * 99), "tensor t has the dimensions [4, 0]"),
        ((2, 0, *(text(b"t"), b"\x01\0\0\0", 4, b"\0\0\0\0", 0) * 2), "tensor t stands twice in the header"),
        ((1, 0, text(b"t"), b"\x01\0\0\0", 4, b"\0\0\0\0", 5), "tensor t begins at 5; offsets must be multiples of 32"),
    ],
)
def test_a_hostile_header_is_refused_before_it_costs_anything(parts, complaint, tmp_path):
    path = raw(tmp_path / "model.gguf", *parts)
    tracemalloc.start()
    try:
        assert complaint in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("alignment", [0, 3, 1 << 17])
def test_an_impossible_alignment_is_refused(alignment, tmp_path):
    path = raw(tmp_path / "a.gguf", 0, 1, text(b"general.alignment"), b"\x04\0\0\0", struct.pack("<I", alignment))
    assert f"general.alignment is {alignment}; it must be a power of two up to 65536" in refusal(path)


def test_tensors_lie_at_the_alignment_that_the_file_names(tmp_path):
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_custom_alignment(256)
    writer.add_tensor("t", np.ones(3, np.float32))
    finish(writer)
    header = read_header(tmp_path / "a.gguf")
    assert header.data_offset % 256 == 0
    assert (tmp_path / "a.gguf").read_bytes()[header.data_offset :][:12] == np.ones(3, np.float32).tobytes()


@settings(max_examples=150, deadline=None)
@given(place=st.integers(4, 700), value=st.binary(min_size=1, max_size=8))
def test_a_damaged_byte_gives_another_header_or_an_error_and_nothing_else(tmp_path_factory, place, value):
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    data = bytearray(write(path).read_bytes())
    data[place : place + len(value)] = value
    path.write_bytes(data)
    with contextlib.suppress(LoadError):
        assert read_header(path).path == path
