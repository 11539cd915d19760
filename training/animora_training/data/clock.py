"""Plausible times: a few users with wrong clocks must not define the end of the data."""

import numpy as np

from animora_training.data.dataset import DoubleArray

# Share of users whose clocks are assumed to be right.
CLOCKS_RIGHT = 0.99
# Seconds after that quantile which are still plausible: with few active users a day, less than 1 % of the
# users have the latest likes.
BELIEVED = 7 * 86_400.0


def now_of(latest: DoubleArray) -> float:
    """The approximate end of the data: the 99 % quantile of the users' latest likes.

    Args:
        latest: float64 (k), k > 0, time of each user's latest like, seconds since the epoch.
    """
    return float(np.quantile(latest, CLOCKS_RIGHT, method="lower"))


def last_believed(latest: DoubleArray) -> float:
    """The latest time that is at most BELIEVED after `now_of`. See `now_of` for the argument."""
    return float(latest[latest <= now_of(latest) + BELIEVED].max())
