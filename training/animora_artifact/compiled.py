"""Loads and calls native code (`score.so`), which replaces TorchScript's `score` on CPUs.

The code is a shared library without dependencies and without weights: the network's method `compiled_tensors`
returns these in the layout that the code expects. Its exports end in the version of this interface:

    const uint64_t animora_shape_2[]
        Number of values that follow, then the network's shape: the width of the GMF branch, bias included,
        and the widths of the hidden layers.
    int animora_level_2(void)
        The best instruction set that the CPU and the code support; 0 for none.
    int animora_score_2(int level, const float *const *tensors, uint64_t user_rows, const int64_t *user_index,
                        uint64_t requests, const int64_t *segments, const float *posts, uint64_t post_rows,
                        const int64_t *post_index, float *logits, uint64_t pairs)
        Writes the logits (pairs). Returns nonzero for a row out of bounds. Keeps no state.

The shapes of code and tensors are checked when the code is loaded.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from animora_artifact.errors import CompiledUnusable
from animora_artifact.manifest import Dimensions
from animora_artifact.network import Network

Rows = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

_LONGEST_VECTOR = 16  # floats
_MAX_SHAPE = 64  # values
_SIZE, _POINTER = ctypes.c_uint64, ctypes.c_void_p
_ARGUMENTS = (
    *(ctypes.c_int, _POINTER),  # level, tensors
    *(_SIZE, _POINTER, _SIZE, _POINTER),  # users: rows, index; requests, segments
    *(_POINTER, _SIZE, _POINTER),  # posts: table, rows, index
    *(_POINTER, _SIZE),  # logits, pairs
)


@dataclass(frozen=True, slots=True)
class Library:
    """Native code, loaded into this process.

    Attributes:
        score: `animora_score_2`.
        level: The instruction set to use.
        shape: Shape of the network, as in `animora_shape_2`.
    """

    score: Callable[..., int]
    level: int
    shape: tuple[int, ...]


class _WithTensors(Protocol):
    def compiled_tensors(self) -> list[Tensor]:
        """The weights that the code reads: float32, contiguous."""
        ...


class CompiledNetwork:
    """A Network on the CPU, in float32, that scores by native code on the calling thread.

    Args:
        network: The network, for the other methods.
        library: The native code.
        tensors: The weights that the code reads.
        dimensions: Dimensions of the network.
    """

    def __init__(
        self, network: Network, library: Library, tensors: list[Tensor], dimensions: Dimensions
    ) -> None:
        self._network = network
        self._score = partial(library.score, library.level)
        self._tensors = tensors  # keeps the memory alive that the code reads
        self._addresses = (_POINTER * len(tensors))(*map(_address, tensors))
        self._users = dimensions.users
        self._width = dimensions.post_vector

    def encode_posts(self, post_rows: Tensor, image: Tensor, caption: Tensor) -> Tensor:
        """See Network."""
        return self._network.encode_posts(post_rows, image, caption)

    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        """See Network. Raises the errors of score_arrays."""
        return torch.from_numpy(
            self.score_arrays(user_rows.numpy(), segments.numpy(), post_table, post_index.numpy())
        )

    def score_arrays(self, user_rows: Rows, segments: Rows, post_table: Tensor, post_index: Rows) -> Logits:
        """`score` with NumPy arrays, 17 µs faster than with tensors.

        Raises:
            IndexError: A row is out of bounds.
            RuntimeError: An array has a wrong dtype or shape.
        """
        pairs = len(post_index)
        post_rows, width = post_table.shape
        if len(segments) != pairs or width != self._width:
            raise RuntimeError(f"{len(segments)} segments of {pairs} pairs, posts {width} wide")
        logits = np.empty(pairs, np.float32)
        if not pairs:
            return logits
        refused = self._score(
            self._addresses,
            self._users,
            _address_of(user_rows, np.int64),
            len(user_rows),
            _address_of(segments, np.int64),
            _address(post_table),
            post_rows,
            _address_of(post_index, np.int64),
            _address_of(logits, np.float32),
            pairs,
        )
        if refused:
            raise IndexError("a row of a user or a post is out of bounds")
        return logits

    def explain(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        """See Network."""
        return self._network.explain(user_rows, segments, post_table, post_index)


def load_compiled(code: bytes, network: Network, dimensions: Dimensions) -> CompiledNetwork:
    """Loads native code, whose bytes were verified, for a network.

    Args:
        code: Bytes of the library.
        network: The network, on the CPU in float32.
        dimensions: Dimensions of the network.

    Raises:
        CompiledUnusable: The code does not fit this machine or this network.
    """
    if not hasattr(network, "compiled_tensors"):
        raise CompiledUnusable("the network has no tensors for native code")
    library = open_library(code)
    shape = dimensions.factors + 1, *dimensions.hidden
    if library.shape != shape:
        raise CompiledUnusable(f"the native code is for a network of shape {library.shape}, not {shape}")
    try:
        tensors = cast(_WithTensors, network).compiled_tensors()
        _require_layout(tensors, dimensions)
        return CompiledNetwork(network, library, tensors, dimensions)
    except RuntimeError as error:
        raise CompiledUnusable(f"native code wants other tensors: {error}") from error


def _require_layout(tensors: list[Tensor], dimensions: Dimensions) -> None:
    """Raises RuntimeError if the tensors do not have the layout that code of this shape reads."""
    gmf, hidden = dimensions.factors + 1, dimensions.hidden
    # Weight and bias of each layer above the first, the final weights, and padding for the last vector load.
    layers = sum(entering * leaving + leaving for entering, leaving in pairwise(hidden))
    expected = [(dimensions.users, gmf + hidden[0] + 1), (layers + hidden[-1] + _LONGEST_VECTOR,)]
    found = [tuple(tensor.shape) for tensor in tensors]
    if found != expected:
        raise RuntimeError(f"their shapes are {found}; must be {expected}")
    if dimensions.post_vector != gmf + hidden[0]:
        raise RuntimeError(f"post vectors are {dimensions.post_vector} wide; must be {gmf + hidden[0]}")


def open_library(code: bytes) -> Library:
    """Loads native code into this process.

    Raises:
        CompiledUnusable: This machine cannot load or run the code, or it has another interface.
    """
    library = _loaded(code)
    try:
        level, score = library.animora_level_2(), library.animora_score_2
        size = min(ctypes.c_uint64.in_dll(library, "animora_shape_2").value, _MAX_SHAPE)
        _, *shape = (ctypes.c_uint64 * (1 + size)).in_dll(library, "animora_shape_2")
    except (AttributeError, ValueError) as error:
        raise CompiledUnusable("the native code has another interface than this program knows") from error
    if not level:
        raise CompiledUnusable("this CPU has none of the instruction sets that the code was compiled for")
    score.argtypes = _ARGUMENTS
    return Library(score, level, tuple(shape))


@cache
def _loaded(code: bytes) -> ctypes.CDLL:
    """Loads a library once; versions of the same shape share it. It stays loaded until the process ends.

    The library is loaded from memory, so no writable folder is needed. The descriptor stays open, since the
    dynamic linker identifies the library by the descriptor's path.
    """
    if sys.platform != "linux":
        raise CompiledUnusable("native code is for Linux")
    try:
        descriptor = os.memfd_create("animora-score")
    except OSError as error:
        raise CompiledUnusable(f"this machine refuses memory for native code: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(code)
        return ctypes.CDLL(f"/proc/self/fd/{descriptor}")
    except OSError as error:
        os.close(descriptor)
        raise CompiledUnusable("the native code does not load on this machine") from error


def _address(tensor: Tensor) -> int:
    if tensor.dtype != torch.float32 or not tensor.is_contiguous():
        raise RuntimeError(f"{tensor.dtype} with strides {tensor.stride()}, not float32 without gaps")
    return tensor.data_ptr()


def _address_of(array: Any, dtype: npt.DTypeLike) -> int:
    """Address of an array's memory; the caller keeps the array alive."""
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise RuntimeError(f"{array.dtype} with strides {array.strides}, not {dtype} without gaps")
    if not array.flags.writeable:
        return int(array.ctypes.data)  # five times slower
    return ctypes.addressof(ctypes.c_char.from_buffer(array))
