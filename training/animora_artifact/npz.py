"""Reading and writing `.npz` files whose arrays are known by name, type and rank."""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from animora_artifact.errors import ArtifactRejected, RejectionReason

Array = npt.NDArray[Any]


def to_npz(arrays: Mapping[str, Array]) -> bytes:
    """The arrays as an uncompressed `.npz`; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]  # NumPy types its own keyword as positional
    return buffer.getvalue()


def read_npz(
    data: bytes, expected: Mapping[str, tuple[type[np.generic], int]], *, distinct: bool = False
) -> dict[str, Array]:
    """Reads the expected arrays and nothing else; never unpickles.

    Args:
        data: The file's bytes.
        expected: Name → (dtype, number of dimensions).
        distinct: Refuse an array that holds a value twice.

    Raises:
        ArtifactRejected: An array is missing or is not what was expected.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in expected}
    except (KeyError, ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ArtifactRejected(
            RejectionReason.CONTENT, f"not the arrays that were expected: {error}"
        ) from error
    for name, (dtype, rank) in expected.items():
        array = arrays[name]
        if array.dtype != dtype or array.ndim != rank:
            raise ArtifactRejected(
                RejectionReason.CONTENT, f"{name} is {array.dtype} with {array.ndim} dimensions"
            )
        if distinct and len(np.unique(array)) != len(array):
            raise ArtifactRejected(RejectionReason.CONTENT, f"{name} lists a value twice")
    return arrays
