"""Reads and writes `.npz` files with arrays of known names, dtypes and ranks."""

import io
import math
import tokenize
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from animora_artifact.archive import UNREADABLE, open_stored
from animora_artifact.errors import ArtifactRejected, RejectionReason

Array = npt.NDArray[Any]

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
# Errors that NumPy raises for invalid files.
_UNREADABLE = (*UNREADABLE, SyntaxError, TypeError, tokenize.TokenError)


@dataclass(frozen=True, slots=True)
class Expected:
    """Expected type of an array.

    Attributes:
        dtype: Element type, in native byte order.
        rank: Number of dimensions.
    """

    dtype: type[np.generic]
    rank: int


def to_npz(arrays: Mapping[str, Array]) -> bytes:
    """Encodes arrays as an uncompressed `.npz`; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]  # NumPy types its own keyword as positional
    return buffer.getvalue()


def read_npz(data: bytes, expected: Mapping[str, Expected]) -> dict[str, Array]:
    """Reads the expected arrays and no others. Never unpickles; allocates no more than the file's size.

    Members must be stored uncompressed, as `to_npz` writes them, so a small file cannot expand. The declared
    dtype and shape of an array are checked before its elements are read.

    Args:
        data: The file's bytes.
        expected: Expected types by name.

    Raises:
        ArtifactRejected: The file is not a ZIP archive of these arrays, or an array has another type.
    """
    try:
        with open_stored(data) as archive:
            members = _members(archive, expected)
            return {name: _read_array(archive, members[name], expected[name]) for name in expected}
    except _UNREADABLE as error:
        raise _rejected(f"not an .npz file of the expected arrays: {error}") from error


def _members(archive: zipfile.ZipFile, expected: Mapping[str, Expected]) -> dict[str, zipfile.ZipInfo]:
    """Archive members by array name."""
    found = [info.filename.removesuffix(".npy") for info in archive.infolist()]
    if sorted(found) != sorted(expected):
        raise _rejected(f"the arrays are {', '.join(sorted(found))}; must be {', '.join(sorted(expected))}")
    return dict(zip(found, archive.infolist(), strict=True))


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo, expected: Expected) -> Array:
    with archive.open(info) as file:
        shape, dtype = _read_header(file)
        if dtype != expected.dtype or len(shape) != expected.rank:
            raise _rejected(
                f"{info.filename} is {dtype} with {len(shape)} dimensions; "
                f"must be {np.dtype(expected.dtype)} with {expected.rank}"
            )
        declared = math.prod(shape) * dtype.itemsize
        if min(shape) < 0 or declared != info.file_size - file.tell():
            raise _rejected(f"{info.filename} has {info.file_size} bytes, which is not its shape {shape}")
    with archive.open(info) as file:
        array: Array = npy.read_array(file, allow_pickle=False)
    return array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and dtype that an array's header declares."""
    version = npy.read_magic(file)
    if version not in _HEADERS:
        raise _rejected(f".npy format {version} is not supported")
    try:
        shape, _, dtype = _HEADERS[version](file)
    except MemoryError as error:  # Python's parser ran out of stack on deep nesting
        raise _rejected("the header of an array cannot be parsed") from error
    return shape, dtype


def _rejected(detail: str) -> ArtifactRejected:
    return ArtifactRejected(RejectionReason.CONTENT, detail)
