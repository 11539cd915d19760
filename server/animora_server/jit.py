"""Loops that Numba compiles: for what is done to a few hundred ids or scores at a time.

NumPy takes 1 us to begin each of its calls, so that a step of ten of them costs more than what it does to 200
ids. A compiled loop does such a step in one pass, and says it id by id. A process starts 0.6 s later for it,
or 1.8 s the first time, and takes 52 MB more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import numba
from numba import types

# What a function reads: arrays of one dimension, without gaps.
IDS = types.Array(types.int64, 1, "C", readonly=True)
PLACES = types.Array(types.int32, 1, "C", readonly=True)
FLAGS = types.Array(types.boolean, 1, "C", readonly=True)
SCORES = types.Array(types.float32, 1, "C", readonly=True)
TIMES = types.Array(types.float64, 1, "C", readonly=True)
NUMBER = types.int64
# And what it writes to, since an array that it made itself would take 1 us to become NumPy's.
IDS_OUT = types.int64[::1]
FLAGS_OUT = types.boolean[::1]
SMALL_OUT = types.int8[::1]
SCORES_OUT = types.float32[::1]
COUNTS_OUT = types.int64[:, ::1]


def tuple_of(*members: types.Type) -> types.Type:
    """A tuple of such members."""
    return types.Tuple(members)  # type: ignore[no-untyped-call]


Loop = TypeVar("Loop", bound=Callable[..., Any])


def jit(*arguments: types.Type) -> Callable[[Loop], Loop]:
    """Compiles a function for arguments of these types when its module is imported: nobody waits for it yet.

    What comes out is kept on disk for the next process, where there is a place for it (`NUMBA_CACHE_DIR`,
    beside the module, or the user's cache). It is made anew when the module changes, and only then: so the
    function may call compiled functions of its own module, and of no other.
    """
    compile_for = partial(numba.njit, arguments, error_model="numpy")

    def compile_and_keep(loop: Loop) -> Loop:
        try:
            return cast(Loop, compile_for(cache=True)(loop))
        except Exception:  # there is no place for it, or no room, or what was kept cannot be read
            return cast(Loop, compile_for()(loop))

    return compile_and_keep
