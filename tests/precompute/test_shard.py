import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from animora_server.errors import ConfigurationError
from animora_server.precompute.shard import Shard


def test_a_shard_is_read_as_kubernetes_counts():
    assert Shard.parse("0/8") == Shard(0, 8)
    assert Shard.parse("7/8") == Shard(7, 8)
    assert str(Shard.parse("7/8")) == "7/8"


@pytest.mark.parametrize("text", ["", "8/8", "0/0", "1", "/8", "-1/8", "a/b", "0/8/1", " 0/8"])
def test_a_malformed_shard_is_refused_with_an_example(text):
    with pytest.raises(ConfigurationError, match="such as 0/8"):
        Shard.parse(text)


@given(arrays(np.int64, st.integers(0, 50)), st.integers(1, 9))
def test_every_user_is_in_exactly_one_shard(user_ids, count):
    held = np.array([Shard(index, count).holds(user_ids) for index in range(count)])
    assert (held.sum(axis=0) == 1).all()


@given(st.permutations(range(20)))
def test_a_users_shard_depends_on_the_id_alone(order):
    ids = np.arange(20)
    assert np.array_equal(Shard(1, 3).holds(ids)[order], Shard(1, 3).holds(ids[order]))


@pytest.mark.parametrize("step", [1, 2, 8, 1024])
def test_ids_with_a_pattern_are_split_evenly(step):
    ids = np.arange(8000) * step
    for index in range(8):
        assert 850 < np.count_nonzero(Shard(index, 8).holds(ids)) < 1150
