import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animora_training.data.dataset import ABSENT, index_of
from animora_training.errors import WidthMismatch
from tests.support.datasets import dataset, triples

IDS = st.integers(-(2**63), 2**63 - 1)


def test_a_like_and_a_comment_on_one_post_are_one_pair_at_the_later_time():
    data = dataset([(10, 100, 5.0), (20, 100, 6.0), (10, 100, 9.0), (10, 200, 7.0)])
    assert sorted(triples(data.pairs)) == [(0, 0, 9.0), (0, 1, 7.0), (1, 0, 6.0)]


def test_a_block_hides_posts_in_both_directions_and_from_nobody_else():
    data = dataset([], users=3, posts=3, blocks=((10, 30),))
    users, posts = np.indices((3, 3))
    assert np.argwhere(data.blocked(users, posts)).tolist() == [[0, 2], [2, 0]]


def test_a_block_of_a_deleted_user_hides_their_posts():
    data = dataset([], users=2, posts=2, blocks=((10, 77),))
    data.posts.authors[1] = 77
    assert data.blocked(np.array([0, 1]), np.array([1, 1])).tolist() == [True, False]


@given(st.lists(IDS, unique=True), st.lists(IDS))
def test_an_index_maps_an_id_to_its_position_or_to_absent(known, wanted):
    ascending = np.array(sorted(known), np.int64)
    found = index_of(np.array([*wanted, *known], np.int64), ascending)
    for an_id, index in zip([*wanted, *known], found, strict=True):
        assert (index == ABSENT) == (an_id not in known)
        assert index == ABSENT or ascending[index] == an_id


def test_embeddings_are_adapted_to_the_width_of_a_model():
    data = dataset([])
    assert data.without_embeddings().posts.image.shape == (6, 0)
    widened = data.without_embeddings().with_widths(image=5, caption=0).posts
    assert widened.image.shape == (6, 5)
    assert not widened.image.any()
    assert data.with_widths(image=3, caption=0).posts.image is data.posts.image
    assert data.with_widths(image=0, caption=2).posts.image.shape == (6, 0)
    with pytest.raises(WidthMismatch, match="image embeddings are 3 wide, the model takes 4"):
        data.with_widths(image=4, caption=2)
