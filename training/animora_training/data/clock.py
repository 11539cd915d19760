"""Which times of likes can be right: one wrong clock must not decide what is new."""

import numpy as np

from animora_training.data.dataset import DoubleArray

# The share of users whose likes do not come from the future, at least.
CLOCKS_RIGHT = 0.99
# Seconds by which the likes of the other users may be later and are believed: where few users do anything in
# a day, the latest likes are those of less than a hundredth.
BELIEVED = 7 * 86_400.0


def now_of(latest: DoubleArray) -> float:
    """The time at which the data end, unless more than a hundredth of the users have likes from the future.

    Args:
        latest: float64 (k), k > 0, the time of each user's latest like, in seconds since the epoch.
    """
    return float(np.quantile(latest, CLOCKS_RIGHT, method="lower"))


def last_believed(latest: DoubleArray) -> float:
    """The time of the last like that is not later than `now_of` by more than BELIEVED. Arguments as there."""
    return float(latest[latest <= now_of(latest) + BELIEVED].max())
