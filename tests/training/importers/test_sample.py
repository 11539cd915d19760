import numpy as np
import pytest

from animora_training.errors import InvalidOption
from animora_training.importers.sample import DAY, FULL, SampleSize, make_world
from animora_training.importers.sample_activity import make_feed
from tests.support.datasets import NOW, TINY, as_dataset

SIZE = SampleSize(users=400, posts=1000, pairs=20_000, width=64)


@pytest.fixture(scope="module")
def feed():
    return make_feed(SIZE, 0, NOW)


@pytest.fixture(scope="module")
def world():
    return make_world(SIZE, 0, NOW)


def test_the_full_sample_has_its_documented_size():
    assert FULL.users >= 2_000
    assert FULL.posts >= 5_000
    assert FULL.pairs >= 150_000
    assert (FULL.days, FULL.width) == (60.0, 768)


def test_the_number_of_pairs_is_about_the_given_one(feed):
    pairs = as_dataset(feed).pairs
    assert SIZE.pairs * 0.95 < len(pairs) < SIZE.pairs * 1.05
    assert len(feed.likes.users) + len(feed.comments.users) > len(pairs)
    assert len(feed.comments.bodies) == len(feed.comments.users) > 0.1 * len(pairs)


def test_the_seed_decides_the_feed():
    first, again, other = (make_feed(TINY, seed, NOW) for seed in (7, 7, 8))
    for part in ("likes", "comments", "posts", "blocks"):
        for name in getattr(first, part).__slots__:
            np.testing.assert_array_equal(
                getattr(getattr(first, part), name), getattr(getattr(again, part), name)
            )
    assert first.posts.captions != other.posts.captions


def test_tastes_do_not_depend_on_the_time():
    users, posts = np.arange(1, 61), np.arange(1, 151)
    then, now = make_world(TINY, 3, NOW - 1e6), make_world(TINY, 3, NOW)
    np.testing.assert_array_equal(then.affinity(users, posts), now.affinity(users, posts))


def test_everything_happens_after_its_post_and_before_it_is_deleted_or_now(feed):
    posts = feed.posts
    assert posts.created.min() > NOW - SIZE.days * DAY
    assert posts.created.max() < NOW
    ends = np.where(np.isnan(posts.deleted), NOW, posts.deleted)
    assert (posts.created <= ends).all()
    for events in (feed.likes, feed.comments):
        assert (events.times >= posts.created[events.posts - 1]).all()
        assert (events.times <= ends[events.posts - 1]).all()
    assert feed.blocks.times.min() > NOW - SIZE.days * DAY


def test_nobody_likes_a_post_twice_or_their_own_or_one_behind_a_block(feed):
    likes = feed.likes
    assert len(np.unique(likes.users * 10_000 + likes.posts)) == len(likes.users)
    data = as_dataset(feed)
    assert (data.posts.authors[data.events.posts] != data.user_ids[data.events.users]).all()
    assert len(data.blocks)
    assert not data.blocked(data.events.users, data.events.posts).any()


def test_there_are_cold_users_cold_posts_deletions_and_recent_ones_among_them(feed, world):
    events = as_dataset(feed).events
    assert (~world.active).sum() == 20
    assert not np.isin(np.flatnonzero(~world.active), events.users).any()
    assert np.isin(np.flatnonzero(world.active), events.users).all()
    cold = np.flatnonzero(~world.warm)
    assert len(cold) == 30
    assert not np.isin(cold, events.posts).any()
    assert feed.posts.created[cold].min() > NOW - DAY
    assert 5 < (~np.isnan(feed.posts.deleted)).sum() < 30


def test_popularity_is_skewed_and_evenings_are_busy(feed):
    counts = np.sort(np.bincount(feed.likes.posts, minlength=1001))[::-1]
    assert counts[:100].sum() > 0.3 * counts.sum()
    hours = np.bincount((feed.likes.times // 3600 % 24).astype(int), minlength=24)
    assert hours[18:23].sum() > 2 * hours[5:10].sum()


def test_users_interact_with_posts_of_their_taste(feed, world):
    affinity = world.affinity(feed.user_ids, feed.posts.ids)
    chosen = affinity[feed.likes.users - 1, feed.likes.posts - 1]
    assert chosen.mean() > affinity.mean() + affinity.std()
    assert (world.likes(feed.user_ids, feed.posts.ids) == (affinity > 0.35)).all()


def test_embeddings_are_unit_length_and_carry_the_contents(feed, world):
    for embeddings in (feed.posts.image, feed.posts.caption):
        assert embeddings.shape == (1000, 64)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1.0, rtol=1e-5)
        likeness, truth = embeddings @ embeddings.T, world.contents @ world.contents.T
        assert np.corrcoef(likeness.ravel(), truth.ravel())[0, 1] > 0.5


def test_captions_are_sentences(feed):
    assert all(caption[0].isupper() and caption[-1] in ".!" for caption in feed.posts.captions)
    assert len(set(feed.posts.captions)) > 900


@pytest.mark.parametrize(
    ("field", "value"),
    [("users", 5), ("users", 10**6), ("posts", 3), ("pairs", 0), ("pairs", 10**9), ("days", 1), ("width", 3)],
)
def test_an_impossible_size_is_refused_by_name(field, value):
    with pytest.raises(InvalidOption, match=field):
        SampleSize(**{field: value})
