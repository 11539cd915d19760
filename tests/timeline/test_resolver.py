"""The freshness of ranked timelines."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_server.timeline.resolver import Freshness, freshness
from animora_server.types import RankedTimeline, RankerName

LIST = RankedTimeline(
    b"i" * 16, np.empty(0, np.int64), np.empty(0, np.float32), RankerName.NEUCF, "v1", 1000.0, 1300.0, 990.0
)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (1000.0, Freshness.FRESH),
        (1299.9, Freshness.FRESH),
        (1300.0, Freshness.STALE),
        (1899.9, Freshness.STALE),
        (1900.0, Freshness.EXPIRED),
    ],
)
def test_a_timeline_is_fresh_then_stale_then_expired(now, expected):
    assert freshness(LIST, now, stale_ttl=600.0, beta=1.0, draw=0.5) is expected


def test_a_costly_timeline_is_refreshed_earlier():
    now, draw = 1299.0, math.exp(-2)  # two costs early

    assert freshness(replace(LIST, cost=0.4), now, 600.0, 1.0, draw) is Freshness.FRESH
    assert freshness(replace(LIST, cost=0.6), now, 600.0, 1.0, draw) is Freshness.DUE
    assert freshness(replace(LIST, cost=0.4), now, 600.0, 2.0, draw) is Freshness.DUE


@given(draw=st.floats(min_value=0, max_value=1, exclude_min=True), cost=st.floats(0, 100))
def test_with_a_beta_of_zero_nothing_is_refreshed_early(draw, cost):
    assert freshness(replace(LIST, cost=cost), 1299.9, 600.0, 0.0, draw) is Freshness.FRESH
