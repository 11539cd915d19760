from itertools import islice
from random import Random

import pytest

from animora_server.cache.breaker import FIRST_DELAY, LONGEST_DELAY, Breaker


@pytest.fixture
def breaker() -> Breaker:
    closed = Breaker(threshold=3, random=Random(1))
    closed.close()
    return closed


def test_it_is_open_until_the_first_try_went_well():
    assert Breaker(threshold=3, random=Random(1)).is_open


def test_it_opens_at_the_third_failure_in_a_row(breaker: Breaker):
    assert [breaker.failed() for _ in range(3)] == [False, False, True]
    assert breaker.is_open


def test_a_success_starts_the_count_anew(breaker: Breaker):
    breaker.failed()
    breaker.failed()
    breaker.succeeded()
    breaker.failed()
    breaker.failed()
    assert not breaker.is_open


def test_only_the_failure_that_opens_it_says_so(breaker: Breaker):
    assert [breaker.failed() for _ in range(5)].count(True) == 1


def test_a_late_success_does_not_close_it(breaker: Breaker):
    breaker.open()
    breaker.succeeded()
    assert breaker.is_open


def test_closing_forgets_earlier_failures(breaker: Breaker):
    for _ in range(3):
        breaker.failed()
    breaker.close()
    assert not breaker.failed()
    assert not breaker.is_open


def test_delays_double_up_to_the_longest_within_their_jitter(breaker: Breaker):
    delays = list(islice(breaker.delays(), 12))
    ceilings = [min(FIRST_DELAY * 2**n, LONGEST_DELAY) for n in range(12)]
    assert all(ceiling / 2 <= delay <= ceiling for delay, ceiling in zip(delays, ceilings, strict=True))


def test_two_replicas_wait_for_different_times():
    one, other = (list(islice(Breaker(3, Random(seed)).delays(), 5)) for seed in (1, 2))
    assert one != other
