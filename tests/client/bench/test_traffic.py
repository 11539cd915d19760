"""Arrivals and calls of a load."""

from itertools import islice, takewhile

import numpy as np
import pytest

from animora_client.bench.driving import Arrivals, arrival_times
from animora_client.bench.traffic import MAX_IDS, IdRange, RankCall, RankTraffic, TimelineTraffic, make_calls
from animora_proto.ranking.v1 import ranking_pb2


def test_constant_arrivals_are_evenly_spaced():
    assert list(islice(arrival_times(Arrivals.CONSTANT, 4, seed=0), 3)) == [0, 0.25, 0.5]


def test_poisson_arrivals_keep_their_rate_and_vary():
    times = np.array(list(takewhile(lambda time: time < 100, arrival_times(Arrivals.POISSON, 200, seed=1))))
    gaps = np.diff(times)

    assert len(times) == pytest.approx(20_000, rel=0.03)
    assert (gaps >= 0).all()
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.03)  # as of an exponential distribution


def test_equal_seeds_give_equal_arrivals_and_calls():
    def first(seed):
        return list(islice(arrival_times(Arrivals.POISSON, 10, seed), 5))

    traffic = RankTraffic(IdRange(1, 9), IdRange(1, 50), candidates=5, distinct=3, seed=4)

    assert first(1) == first(1) != first(2)
    assert [call.body for call in make_calls(traffic)] == [call.body for call in make_calls(traffic)]


def test_calls_hold_random_users_and_different_posts_of_the_ranges():
    traffic = RankTraffic(IdRange(-3, 3), IdRange(100, 119), candidates=20, limit=7, distinct=50)

    calls = make_calls(traffic)
    messages = [ranking_pb2.RankRequest.FromString(call.body) for call in calls]

    assert {message.user_id for message in messages} == set(range(-3, 4))
    assert all(sorted(message.post_ids) == list(range(100, 120)) for message in messages)
    assert len({tuple(message.post_ids) for message in messages}) > 40, "candidates come in random order"
    assert {message.limit for message in messages} == {7}
    assert isinstance(calls[0], RankCall)
    assert (calls[0].candidates[0] == np.arange(100, 120)).all()


def test_a_batch_has_the_given_number_of_requests():
    call = make_calls(RankTraffic(IdRange(1, 9), IdRange(1, 50), candidates=5, batch=4, distinct=1))[0]
    assert isinstance(call, RankCall)
    message = ranking_pb2.BatchRankRequest.FromString(call.body)

    assert len(message.requests) == len(call.candidates) == 4
    assert (np.sort(message.requests[2].post_ids) == call.candidates[2]).all()


def test_the_number_of_prepared_calls_is_bounded_by_memory():
    traffic = RankTraffic(IdRange(1, 9), IdRange(1, 10**9), candidates=10_000, batch=10, distinct=10**6)

    assert traffic.calls == MAX_IDS // 100_000


def test_each_users_first_page_is_requested_once():
    calls = make_calls(TimelineTraffic(IdRange(-2, 7), page_size=3, distinct=50))
    messages = [ranking_pb2.GetTimelineRequest.FromString(call.body) for call in calls]

    assert sorted(message.user_id for message in messages) == list(range(-2, 8))
    assert [message.user_id for message in messages] != list(range(-2, 8)), "in random order"
    assert {(message.page_size, message.page_token) for message in messages} == {(3, "")}
    assert len(make_calls(TimelineTraffic(IdRange(1, 2**62), distinct=5))) == 5


@pytest.mark.parametrize("text", ["", "5", "a-b", "9-1", "1-9223372036854775808", "1-2-3"])
def test_an_invalid_range_is_refused(text):
    with pytest.raises(ValueError, match="is not a range"):
        IdRange.parse(text)


def test_a_range_may_lie_below_0():
    assert IdRange.parse("-5--3") == IdRange(-5, -3)
    assert len(IdRange.parse(" -5-3 ")) == 9


def test_more_candidates_than_posts_are_refused():
    with pytest.raises(ValueError, match="cannot be drawn from posts 1-10"):
        RankTraffic(IdRange(1, 9), IdRange(1, 10), candidates=11)
