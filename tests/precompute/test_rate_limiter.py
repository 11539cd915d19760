import pytest

from animora_server.precompute.rate_limiter import RateLimiter, RunStopped
from tests.support.clocks import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


def test_without_a_rate_nothing_waits(clock):
    limiter = RateLimiter(0, clock)
    assert [limiter.reserve(10_000) for _ in range(3)] == [0, 0, 0]


def test_waits_keep_the_rate(clock):
    limiter = RateLimiter(1000, clock)
    assert [limiter.reserve(500), limiter.reserve(250), limiter.reserve(1)] == [0, 0.5, 0.75]


def test_unused_time_is_not_saved_up(clock):
    limiter = RateLimiter(1000, clock)
    limiter.reserve(500)
    clock.now += 100
    assert [limiter.reserve(500), limiter.reserve(500)] == [0, 0.5]


def test_a_waiting_thread_is_stopped():
    limiter = RateLimiter(1e-6)
    limiter.take(1)
    limiter.stop()
    with pytest.raises(RunStopped):
        limiter.take(1)


def test_a_wait_beyond_the_range_of_the_clock_ends_with_the_run(clock):
    limiter = RateLimiter(1e-300, clock)
    limiter.take(1)
    limiter.stop()
    with pytest.raises(RunStopped):
        limiter.take(1)


def test_after_a_stop_nothing_is_let_through_even_without_a_rate():
    limiter = RateLimiter(0)
    limiter.stop()
    with pytest.raises(RunStopped):
        limiter.take(0)
