"""The cost estimate: calibrated, inflated by late batches, and decaying when idle."""

import pytest

from animora_server.batching import CostModel


def test_an_estimate_is_the_calibrated_time_of_the_batches_and_their_rows():
    cost = CostModel()
    cost.calibrate(fixed=0.001, per_row=1e-6)
    assert cost.estimate(rows=500, batches=2, now=0.0) == 0.0025


def test_late_batches_raise_the_estimate_step_by_step():
    cost = CostModel(fixed=0.001, per_row=0.0)
    before = cost.estimate(1, 1, now=10.0)
    cost.observe(1, 0.005, now=10.0)
    once = cost.estimate(1, 1, now=10.0)
    cost.observe(1, 0.005, now=10.0)
    assert before < once < cost.estimate(1, 1, now=10.0)


@pytest.mark.failure(9)
def test_one_stall_moves_the_estimate_by_no_more_than_one_step():
    cost = CostModel(fixed=0.001, per_row=0.0)
    cost.observe(1, 60.0, now=10.0)
    assert cost.estimate(1, 1, now=10.0) < 0.0013


def test_the_estimate_is_bounded_however_long_the_device_is_slow():
    cost = CostModel(fixed=0.001, per_row=0.0)
    for _ in range(1000):
        cost.observe(1, 60.0, now=10.0)
    assert cost.estimate(1, 1, now=10.0) == 0.001 * CostModel.BOUNDS[1]


def test_the_estimate_settles_where_nine_batches_of_ten_are_faster():
    cost = CostModel(fixed=0.001, per_row=0.0)
    for number in range(2000):
        cost.observe(1, 0.004 if number % 10 == 0 else 0.002, now=10.0)
    assert 0.0018 < cost.estimate(1, 1, now=10.0) < 0.0042


def test_the_estimate_returns_to_the_calibrated_time_when_idle():
    cost = CostModel(fixed=0.001, per_row=0.0)
    for _ in range(1000):
        cost.observe(1, 60.0, now=10.0)
    assert cost.estimate(1, 1, now=40.0) < 0.00101
