"""Paired bootstrap: a confidence interval of the difference between two recommenders."""

from dataclasses import dataclass

import numpy as np

from animora_training.data.dataset import DoubleArray

REPEATS = 2000
NUMBERS_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean difference of a metric between two recommenders over the same users.

    Attributes:
        mean: Mean difference.
        standard_error: Standard error of the mean.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        users: Number of users.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    users: int


def paired_bootstrap(
    first: DoubleArray, second: DoubleArray, seed: int = 0, repeats: int = REPEATS
) -> Difference:
    """Estimates the difference of a metric by resampling users with replacement.

    The interval is the percentile interval of Efron (1979). Pairing removes the variance between users, so it
    is narrower than the interval of either mean. Users with NaN in one of the metrics are left out.

    Args:
        first: float64 (m), the metric of one recommender by user.
        second: float64 (m), that of the other one, in the same order.
        seed: Seed of the resampling.
        repeats: Number of resamples.
    """
    differences = first - second
    differences = differences[~np.isnan(differences)]
    users = len(differences)
    if not users:
        return Difference(np.nan, np.nan, np.nan, np.nan, 0)
    rng = np.random.default_rng(seed)
    step = max(NUMBERS_AT_ONCE // users, 1)
    means = np.concatenate(
        [
            differences[rng.integers(0, users, (min(step, repeats - start), users))].mean(axis=1)
            for start in range(0, repeats, step)
        ]
    )
    low, high = np.quantile(means, (0.025, 0.975))
    return Difference(float(differences.mean()), float(means.std()), float(low), float(high), users)
