"""How sure the difference between two recommenders is."""

from dataclasses import dataclass

import numpy as np

from animora_training.data.dataset import DoubleArray

REPEATS = 2000
NUMBERS_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean of one measure minus another's over the same users.

    Attributes:
        mean: Of all users.
        standard_error: Of the mean.
        low: Where its 95 % interval begins.
        high: Where that ends.
        users: How many there are.
    """

    mean: float
    standard_error: float
    low: float
    high: float
    users: int


def paired_bootstrap(
    first: DoubleArray, second: DoubleArray, seed: int = 0, repeats: int = REPEATS
) -> Difference:
    """The difference of two measures on the same users, by drawing users again with replacement.

    The interval is the percentile interval of Efron (1979); what both recommenders find hard in a user falls
    out of the difference, so the interval is narrower than that of either mean. Users of whom one of the
    measures says nothing (NaN) are left out.

    Args:
        first: float64 (m), a user each.
        second: float64 (m), of the same users in the same order.
        seed: Of the draws.
        repeats: How often all users are drawn.
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
