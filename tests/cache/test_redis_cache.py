import pytest

from animora_server.cache.redis_cache import CircuitBreaker


@pytest.fixture
def breaker() -> CircuitBreaker:
    closed = CircuitBreaker(threshold=3)
    closed.close()
    return closed


def test_the_breaker_is_open_until_the_first_success():
    assert CircuitBreaker(threshold=3).is_open


def test_the_breaker_opens_at_the_third_failure_in_a_row(breaker: CircuitBreaker):
    assert [breaker.failed() for _ in range(3)] == [False, False, True]
    assert breaker.is_open


def test_a_success_resets_the_count_of_failures(breaker: CircuitBreaker):
    breaker.failed()
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    breaker.failed()
    assert not breaker.is_open


def test_only_the_failure_that_opens_the_breaker_returns_true(breaker: CircuitBreaker):
    assert [breaker.failed() for _ in range(5)].count(True) == 1


def test_a_late_success_does_not_close_the_breaker(breaker: CircuitBreaker):
    breaker.open()
    breaker.succeeded()
    assert breaker.is_open


def test_a_closed_breaker_forgets_earlier_failures(breaker: CircuitBreaker):
    for _ in range(3):
        breaker.failed()
    breaker.close()
    assert not breaker.failed()
    assert not breaker.is_open
