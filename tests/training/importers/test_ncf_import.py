import numpy as np
import pytest

from animora_training.errors import InvalidInput
from animora_training.importers.ncf_import import read_feed
from tests.support.ncf_folders import TRAIN, write_folder


def test_likes_are_the_training_pairs_at_their_times(tmp_path):
    likes = read_feed(write_folder(tmp_path)).likes
    rows = sorted(zip(likes.users.tolist(), likes.posts.tolist(), likes.times.tolist(), strict=True))
    expected = (line.split("\t") for line in TRAIN.splitlines())
    assert rows == sorted((int(user), int(item), float(time)) for user, item, _, time in expected)


def test_posts_are_the_items_of_all_files_by_one_author_who_likes_nothing(tmp_path):
    feed = read_feed(write_folder(tmp_path))
    assert feed.posts.ids.tolist() == [0, 1, 2, 3, 4, 5]
    assert feed.user_ids.tolist() == [0, 7, 8, 9]
    assert set(feed.posts.authors.tolist()) == {0}
    assert set(feed.posts.created.tolist()) == {100.0}
    assert np.isnan(feed.posts.deleted).all()


def test_no_test_pair_becomes_a_like(tmp_path):
    likes = read_feed(write_folder(tmp_path)).likes
    pairs = set(zip(likes.users.tolist(), likes.posts.tolist(), strict=True))
    assert not pairs & {(7, 3), (8, 0)}


def test_of_several_ratings_of_a_pair_the_latest_counts(tmp_path):
    (tmp_path / "a.train.rating").write_text("1\t2\t5\t10\n1\t2\t1\t30\n1\t2\t1\t20\n")
    likes = read_feed(tmp_path).likes
    assert (likes.users.tolist(), likes.times.tolist()) == ([1], [30.0])


def test_embeddings_are_matched_by_item(tmp_path):
    posts = read_feed(write_folder(tmp_path)).posts
    assert posts.image[2].tolist() == [7.0, 8.0, 9.0]
    assert not posts.image[5].any()
    assert posts.caption.shape == (6, 2)


def test_without_embedding_files_there_are_none(tmp_path):
    (tmp_path / "a.train.rating").write_text("1\t2\t5\t0\n")
    assert read_feed(tmp_path).posts.image.shape == (1, 0)


def test_an_item_without_a_row_of_embeddings_is_refused(tmp_path):
    write_folder(tmp_path)
    np.save(tmp_path / "tiny_caption.npy", np.ones((5, 2)))
    with pytest.raises(InvalidInput, match="has rows for the items 0 to 4, but item 5 occurs"):
        read_feed(tmp_path)


def test_an_empty_data_set_is_an_empty_feed(tmp_path):
    (tmp_path / "a.train.rating").touch()
    feed = read_feed(tmp_path)
    assert len(feed.posts.ids) == len(feed.likes.users) == 0
