"""How much of a call's time is kept for an answer without the model."""

import pytest

from animora_server.types import reserve


@pytest.mark.parametrize(
    ("timeout", "kept"), [(0.0, 0.004), (0.01, 0.004), (0.1, 0.02), (0.5, 0.1), (2.0, 0.1), (1e9, 0.1)]
)
def test_a_fifth_of_the_time_is_kept_within_bounds_that_suit_short_and_long_deadlines(timeout, kept):
    assert reserve(timeout) == pytest.approx(kept)
