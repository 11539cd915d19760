"""Invalid array files are refused before memory is allocated for their declared size."""

import io
import tracemalloc
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_artifact import ArtifactRejected
from animora_artifact.npz import Expected, read_npz, to_npz

EXPECTED = {"ids": Expected(np.int64, 1), "image": Expected(np.float32, 2)}
ARRAYS = {"ids": np.array([3, -1, 2]), "image": np.ones((2, 3), np.float32)}
GOOD = to_npz(ARRAYS)


def rejection(data: bytes) -> ArtifactRejected:
    with pytest.raises(ArtifactRejected) as raised:
        read_npz(data, EXPECTED)
    return raised.value


def archive(
    members: dict[str, bytes], compression: int = zipfile.ZIP_STORED, *, then: tuple[str, bytes] | None = None
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
        if then is not None:
            file.writestr(*then)
    return buffer.getvalue()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def members(**arrays: np.ndarray) -> dict[str, bytes]:
    return {f"{name}.npy": npy(array) for name, array in {**ARRAYS, **arrays}.items()}


def with_header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """An array file that declares a shape and holds eight bytes."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + bytes(8)


def test_arrays_round_trip():
    found = read_npz(GOOD, EXPECTED)
    assert {name: array.tolist() for name, array in found.items()} == {
        name: array.tolist() for name, array in ARRAYS.items()
    }


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"ids": np.array([1.0])}, "float64"),
        ({"ids": np.array([1], np.int32)}, "int32"),
        ({"ids": np.array([1], ">i8")}, ">i8"),
        ({"ids": np.array([[1]])}, "2 dimensions"),
        ({"ids": np.array(1)}, "0 dimensions"),
        ({"ids": np.array([None])}, "object"),
        ({"ids": np.zeros(1, [("a", np.int64)])}, "dimensions; must be int64"),
        ({"ids": np.array(["1"])}, "<U1"),
    ],
)
def test_an_array_of_another_type_or_rank_is_refused(arrays, why):
    assert why in str(rejection(archive(members(**arrays))))


@pytest.mark.parametrize(
    "shape", [(1 << 29,), (1 << 62,), (1 << 80,), (-1,), (-(1 << 40),), (0,), (2,)], ids=str
)
def test_a_declared_shape_that_is_not_the_members_size_is_refused_before_memory_is_taken(shape):
    data = archive({**members(), "ids.npy": with_header("<i8", shape)})
    tracemalloc.start()
    assert rejection(data).reason == "content"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize(
    "compression",
    [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA],
    ids=["deflate", "bzip2", "lzma"],
)
def test_a_compressed_array_is_refused_however_small_it_is(compression):
    bomb = archive(members(ids=np.zeros(1 << 20, np.int64)), compression)
    assert len(bomb) < 1 << 15
    tracemalloc.start()
    assert "compressed" in str(rejection(bomb))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def patched(offset_in_local: int, offset_in_central: int, value: bytes) -> bytes:
    """The good file with a field of every ZIP header replaced."""
    data = bytearray(GOOD)
    for signature, offset in ((b"PK\3\4", offset_in_local), (b"PK\1\2", offset_in_central)):
        at = data.find(signature)
        while at >= 0:
            data[at + offset : at + offset + len(value)] = value
            at = data.find(signature, at + 1)
    return bytes(data)


@pytest.mark.parametrize("rows", [1 << 27, 1 << 40, 1 << 58])
def test_an_array_that_is_larger_than_the_file_is_refused_before_memory_is_taken(rows):
    content = with_header("<i8", (rows,))
    size = len(content) - 8 + 8 * rows
    buffer = io.BytesIO(archive({**members(), "ids.npy": content}))
    with zipfile.ZipFile(buffer, "a") as file:  # the directory is written again, as it is declared here
        file.getinfo("ids.npy").file_size = size
        file.comment = b"so that it is"
    tracemalloc.start()
    assert "which the file does not hold" in str(rejection(buffer.getvalue()))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("header", ["-" * 9000 + "1", "(" * 9000, "'''", "1+" * 4000 + "1j"], ids=len)
def test_an_invalid_header_is_refused(header):
    length = len(header).to_bytes(2, "little")
    data = archive({**members(), "ids.npy": b"\x93NUMPY\x01\x00" + length + header.encode()})
    assert rejection(data).reason == "content"


@pytest.mark.parametrize("method", [1, 6, 9, 93, 99, 0xFFFF])
def test_an_unknown_compression_method_is_refused(method):
    assert rejection(patched(8, 10, method.to_bytes(2, "little"))).reason == "content"


@pytest.mark.parametrize("flag", [0x1, 0x41, 0x20])
def test_an_encrypted_or_patched_member_is_refused(flag):
    assert rejection(patched(6, 8, flag.to_bytes(2, "little"))).reason == "content"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK not a zip",
        GOOD[:-1],
        GOOD[: len(GOOD) // 2],
        archive({}),
        archive({"ids.npy": npy(ARRAYS["ids"])}),
        archive({**members(), "more.npy": npy(ARRAYS["ids"])}),
        archive({**members(), "ids.npy": b""}),
        archive({**members(), "ids.npy": b"\x93NUMPY\x09\x00"}),
        archive({**members(), "ids.npy": b"\x93NUMPY\x01\x00\xff\xff{'descr'"}),
        archive({**members(), "ids.npy": npy(ARRAYS["ids"]) + b"\0"}),
        archive({**members(), "ids.npy": npy(ARRAYS["ids"])[:-1]}),
    ],
)
def test_an_archive_with_missing_or_extra_arrays_is_refused(data):
    assert rejection(data).reason == "content"


def test_a_duplicate_array_is_refused():
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = archive(members(), then=("ids.npy", npy(np.array([9]))))
    assert "the arrays are" in str(rejection(twice))


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@pytest.mark.filterwarnings("ignore:Reading `.npy`")
def test_a_changed_byte_gives_arrays_or_a_rejection(at, change):
    data = bytearray(GOOD)
    data[at] ^= change
    with suppress(ArtifactRejected):
        read_npz(bytes(data), EXPECTED)
