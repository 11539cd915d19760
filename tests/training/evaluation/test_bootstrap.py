import math

import numpy as np
import pytest

from animora_training.evaluation.bootstrap import paired_bootstrap


def test_the_error_is_that_of_the_mean_of_differences():
    rng = np.random.default_rng(0)
    hardness = rng.normal(size=2000)
    first, second = (hardness + 0.1 * rng.normal(size=2000) + shift for shift in (0.02, 0.0))
    found = paired_bootstrap(first, second, seed=1)
    differences = first - second
    exact = differences.std() / math.sqrt(len(differences))
    assert found.mean == differences.mean()
    assert found.users == 2000
    assert found.standard_error == pytest.approx(exact, rel=0.06)
    assert found.low == pytest.approx(found.mean - 1.96 * exact, abs=0.3 * exact)
    assert found.high == pytest.approx(found.mean + 1.96 * exact, abs=0.3 * exact)


def test_equal_seeds_give_equal_intervals():
    first, second = np.random.default_rng(0).random((2, 50))
    assert paired_bootstrap(first, second, seed=3) == paired_bootstrap(first, second, seed=3)
    assert paired_bootstrap(first, second, seed=3) != paired_bootstrap(first, second, seed=4)


def test_users_without_a_measure_are_left_out():
    found = paired_bootstrap(np.array([1.0, math.nan, 1.0]), np.array([0.0, 0.0, 0.0]))
    assert (found.mean, found.standard_error, found.users) == (1.0, 0.0, 2)
    assert paired_bootstrap(np.array([math.nan]), np.array([0.0])).users == 0
