import pytest

from animora_server.precompute.rate_limiter import RateLimiter, RunStopped
from tests.support.clocks import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


def test_without_a_rate_every_turn_is_now(clock):
    limiter = RateLimiter(0, clock)
    assert [limiter.reserve(10_000) for _ in range(3)] == [0, 0, 0]


def test_turns_follow_one_another_at_the_rate(clock):
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


def test_a_turn_that_is_further_away_than_any_clock_counts_is_waited_for_until_the_end(clock):
    limiter = RateLimiter(1e-300, clock)
    limiter.take(1)
    limiter.stop()
    with pytest.raises(RunStopped):
        limiter.take(1)


def test_after_a_stop_there_is_no_turn_even_without_a_rate():
    limiter = RateLimiter(0)
    limiter.stop()
    with pytest.raises(RunStopped):
        limiter.take(0)
