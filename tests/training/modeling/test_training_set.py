import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from animora_training.data.split import leave_one_out
from animora_training.errors import NotFinite, NothingToLearn
from animora_training.modeling.training_set import times_of, training_set
from tests.support.datasets import as_dataset, dataset, tiny_feed


@pytest.fixture(scope="module")
def tiny():
    return as_dataset(tiny_feed())


def same(first, second):
    """Whether two training sets are equal."""
    names = ("offsets", "posts", "negatives", "counts", "image", "caption")
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def test_users_and_posts_have_rows_by_ascending_id_and_histories_are_their_posts_by_time():
    data = dataset([(30, 500, 1.0), (10, 300, 2.0), (30, 100, 3.0), (30, 300, 4.0)], deleted=(500,))
    rows = training_set(data, data.pairs)
    assert rows.vocabulary.user_ids.tolist() == [10, 30]
    assert rows.vocabulary.post_ids.tolist() == [100, 300, 500]
    assert rows.users == 3
    assert rows.offsets.tolist() == [0, 0, 1, 4]
    assert rows.posts.tolist() == [2, 3, 1, 2]
    assert times_of(data.pairs).tolist() == [2.0, 1.0, 3.0, 4.0]
    assert rows.posts.dtype == torch.int32
    assert rows.counts.tolist() == [0, 1, 2, 1]
    assert rows.negatives.tolist() == [1, 2]
    posts, lengths = rows.histories(torch.tensor([2, 0, 1]))
    assert (posts.tolist(), lengths.tolist()) == ([3, 1, 2, 2], [3, 0, 1])


def test_row_0_has_no_embeddings_and_the_others_have_those_of_their_posts():
    data = dataset([(10, 300, 2.0), (10, 200, 3.0)])
    rows = training_set(data, data.pairs)
    assert rows.image.dtype == torch.float16
    assert rows.image.tolist() == [[0.0, 0.0, 0.0], *data.posts.image[1:3].tolist()]
    assert rows.caption.tolist() == [[0.0, 0.0], *data.posts.caption[1:3].tolist()]


def test_a_training_set_is_equal_mapped_or_in_memory_and_for_a_split_or_its_copy(tiny, tmp_path):
    split = leave_one_out(tiny, 3, np.random.default_rng(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mapped = training_set(tiny, split.remaining, tmp_path / "work")
    assert same(mapped, training_set(tiny, split.training))
    assert not same(mapped, training_set(tiny, tiny.pairs))
    assert len(mapped.posts) == len(split.remaining)


def test_a_mapped_training_set_outlives_the_next_one_in_its_folder(tiny, tmp_path):
    kept = training_set(tiny, tiny.pairs)
    first = training_set(tiny, tiny.pairs, tmp_path)
    split = leave_one_out(tiny, 3, np.random.default_rng(1))
    training_set(tiny, split.remaining, tmp_path)
    assert same(first, kept)


def test_a_training_set_without_embeddings_has_none(tiny, tmp_path):
    for folder in (None, tmp_path):
        rows = training_set(tiny.without_embeddings(), tiny.pairs, folder)
        assert rows.image.shape == rows.caption.shape == (len(rows.counts), 0)


def test_a_data_set_without_likes_is_an_error(tiny):
    everything = replace(tiny.posts, deleted=np.ones_like(tiny.posts.deleted))
    for data in (dataset([]), replace(tiny, posts=everything)):
        with pytest.raises(NothingToLearn, match="no likes or comments on live posts"):
            training_set(data, data.pairs)


def test_a_post_without_likes_is_a_negative_after_a_week_and_unknown_before():
    week = 7 * 86_400.0
    # Posts are created at the seconds 1 to 6; the last pair comes a week after the second one's creation.
    data = dataset([(user, 300, week + 2.5) for user in (10, 20)], deleted=(100,))
    rows = training_set(data, data.pairs)
    assert rows.vocabulary.post_ids.tolist() == [200, 300]
    assert rows.negatives.tolist() == [1, 2]
    assert rows.counts.tolist() == [0, 0, 2]
    assert rows.image[1].tolist() == data.posts.image[1].tolist()


def test_a_like_from_the_future_makes_no_new_post_a_negative():
    data = dataset([(10, 300, 5.0), (20, 300, 5.5), (30, 300, 1e11)])
    assert training_set(data, data.pairs).vocabulary.post_ids.tolist() == [300]


@pytest.mark.parametrize("name", ["image", "caption"])
def test_an_embedding_that_is_not_finite_is_refused_by_its_name_and_post(name):
    data = dataset([(10, 300, 5.0), (20, 200, 5.5)])
    embeddings = np.ones((6, 2), np.float16)
    embeddings[2, 1] = np.inf
    image = replace(data.posts, image=embeddings)
    posts = image if name == "image" else replace(data.posts, caption=embeddings)
    with pytest.raises(NotFinite, match=f"the {name} embedding of post 300 is not finite"):
        training_set(replace(data, posts=posts), data.pairs)
