import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from animora_training.learning.sampling import (
    NegativeSampler,
    PairTable,
    SortedPairs,
    drop_probabilities,
    pairs_of,
)


def sampler(users, posts, drawn_from, seed=0):
    generator = torch.Generator().manual_seed(seed)
    positive = pairs_of(torch.tensor(users), torch.tensor(posts), (100, 100))
    return NegativeSampler(positive, torch.tensor(drawn_from), generator)


PAIR = st.tuples(st.integers(0, 6), st.integers(0, 4))


@pytest.mark.parametrize("kind", [PairTable, SortedPairs])
@given(pairs=st.lists(PAIR, min_size=1), asked=st.lists(PAIR, min_size=1))
def test_a_set_of_pairs_contains_what_was_put_in_and_nothing_else(kind, pairs, asked):
    users, posts = torch.tensor(pairs).T
    contained = kind(users, posts, (7, 5)).contain(*torch.tensor(asked).T)
    assert contained.tolist() == [pair in pairs for pair in asked]


def test_a_table_is_made_where_it_fits():
    rows = torch.tensor([1])
    assert isinstance(pairs_of(rows, rows, (6_041, 3_707)), PairTable)
    assert isinstance(pairs_of(rows, rows, (1_000_000, 100_000)), SortedPairs)


def test_negatives_are_never_the_users_own_posts():
    negatives = sampler([1, 1, 2], [3, 4, 3], [1, 2, 3, 4, 5])
    drawn = negatives.draw(torch.tensor([1, 2]).repeat(2000), 4)
    assert set(drawn[::2].unique().tolist()) == {1, 2, 5}
    assert set(drawn[1::2].unique().tolist()) == {1, 2, 4, 5}


def test_negatives_are_drawn_evenly():
    drawn = sampler([1], [1], [1, 2, 3, 4, 5]).draw(torch.ones(10_000, dtype=torch.int64), 4)
    counts = torch.bincount(drawn.flatten(), minlength=6)[2:]
    assert (counts - 10_000).abs().max() < 500


def test_posts_that_are_not_to_be_drawn_are_not():
    drawn = sampler([1], [9], [2, 4]).draw(torch.tensor([1] * 100), 3)
    assert set(drawn.unique().tolist()) == {2, 4}


def test_a_user_who_likes_everything_gets_something_all_the_same():
    assert sampler([1, 1], [1, 2], [1, 2]).draw(torch.tensor([1]), 4).shape == (1, 4)


def test_the_seed_decides():
    users = torch.arange(50)
    first, again, other = (sampler([1], [1], list(range(100)), seed).draw(users, 2) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rare_posts_lose_their_id_more_often_and_the_unknown_always():
    probabilities = drop_probabilities(torch.tensor([0, 1, 9, 1000]), rate=0.1, scale=1.0)
    expected = torch.tensor([1.0, 0.1 + 0.9 / 2, 0.1 + 0.9 / 10, 0.1 + 0.9 / 1001])
    torch.testing.assert_close(probabilities, expected)
