"""The bounds on calls and candidates in flight."""

from contextlib import ExitStack

import pytest

from animora_server.errors import TooManyRequests
from animora_server.service.admission import ALLOWANCE, MAX_REFUSALS, REFUSALS_PER_SECOND, AdmissionController
from tests.support.clocks import ManualClock


@pytest.fixture
def clock():
    return ManualClock()


def admitted(stack: ExitStack, admission: AdmissionController, count: int) -> None:
    for _ in range(count):
        stack.enter_context(admission.admit_call())


def test_calls_beyond_the_most_are_refused_until_one_ends(clock):
    admission = AdmissionController(3, 100, clock)
    with ExitStack() as stack:
        admitted(stack, admission, 2)
        with admission.admit_call(), pytest.raises(TooManyRequests):
            admission.admit_call()
        with admission.admit_call():
            assert admission.calls == 3
    assert admission.calls == 0


def test_under_overload_calls_beyond_the_limit_and_the_allowance_are_refused(clock):
    admission = AdmissionController(1000, 100, clock)
    admission.limit.calls = 20
    with ExitStack() as stack:
        admitted(stack, admission, 20 + ALLOWANCE)
        with pytest.raises(TooManyRequests):
            admission.admit_call()


def test_calls_of_low_priority_are_refused_from_half_of_the_limit_on(clock):
    admission = AdmissionController(100, 100, clock)
    with ExitStack() as stack:
        admitted(stack, admission, 49)
        with admission.admit_call(is_batch=True):
            assert admission.calls == 50
            with pytest.raises(TooManyRequests):
                admission.admit_call(is_batch=True)
            with admission.admit_call():
                assert admission.calls == 51


def test_there_is_room_up_to_the_limit(clock):
    admission = AdmissionController(1000, 100, clock)
    admission.limit.calls = 20
    with ExitStack() as stack:
        admitted(stack, admission, 5)
        assert admission.room() == 15


def test_without_room_some_calls_a_second_are_taken_to_be_refused(clock):
    admission = AdmissionController(1, 100, clock)
    with admission.admit_call():
        assert admission.room() == MAX_REFUSALS
        for _ in range(MAX_REFUSALS):
            with pytest.raises(TooManyRequests):
                admission.admit_call()
        assert admission.room() == 0
        clock.now += 10 / REFUSALS_PER_SECOND
        assert admission.room() in (9, 10)


def test_the_listener_hears_of_each_call_that_ends(clock):
    admission = AdmissionController(10, 100, clock)
    ended = []
    admission.notify(lambda: ended.append(admission.calls))
    with admission.admit_call(), admission.admit_call(), admission.admit_rows(3):
        pass
    assert ended == [1, 0]


def test_candidates_beyond_the_most_are_refused(clock):
    admission = AdmissionController(10, 100, clock)
    with admission.admit_rows(60):
        with pytest.raises(TooManyRequests):
            admission.admit_rows(41)
        with admission.admit_rows(40):
            assert admission.rows == 100


def test_a_larger_request_is_admitted_when_nothing_is_in_flight(clock):
    admission = AdmissionController(10, 100, clock)
    with admission.admit_rows(500):
        assert admission.rows == 500
