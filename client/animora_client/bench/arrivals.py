"""When calls of an open loop are meant to be sent, in seconds from its start."""

from collections.abc import Iterator
from enum import StrEnum
from itertools import count

import numpy as np


class Arrivals(StrEnum):
    """How calls are spaced."""

    POISSON = "poisson"  # as independent callers would: the gaps vary, and some calls come together
    CONSTANT = "constant"  # like a clock


def arrival_times(arrivals: Arrivals, rate: float, seed: int) -> Iterator[float]:
    """Ascending times without end, `rate` a second on average."""
    if arrivals is Arrivals.CONSTANT:
        return (index / rate for index in count())
    return _poisson(rate, np.random.default_rng(seed))


def _poisson(rate: float, rng: np.random.Generator) -> Iterator[float]:
    now = 0.0
    while True:
        times = now + np.cumsum(rng.exponential(1 / rate, 1024))
        yield from times.tolist()
        now = float(times[-1])
