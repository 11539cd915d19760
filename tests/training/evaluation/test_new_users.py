import numpy as np
import pytest

from animora_training.errors import NothingToLearn
from animora_training.evaluation.baselines import PopularityBaseline
from animora_training.evaluation.ease import fit_ease
from animora_training.evaluation.new_users import AFTER, IgnoresHistory, evaluate_new_users, hold_out_users
from animora_training.evaluation.recipe import history_matrix
from tests.support.datasets import as_dataset, dataset, tiny_feed, triples


@pytest.fixture(scope="module")
def data():
    return as_dataset(tiny_feed())


@pytest.fixture(scope="module")
def split(data):
    return hold_out_users(data, np.random.default_rng(0), share=0.4)


class NextNumber:
    """Knows that each post is followed by the next one."""

    def __init__(self, posts):
        self.posts = posts
        self.seen = []

    def scores(self, histories):
        self.seen += [history.tolist() for history in histories]
        scores = np.zeros((len(histories), self.posts))
        scores[np.arange(len(histories)), [(history[-1] + 1) % self.posts for history in histories]] = 1.0
        return scores


def test_training_sees_no_pair_of_a_new_user(data, split):
    assert len(split.users) > 3
    new = np.isin(data.pairs.users, split.users)
    assert triples(split.known()) == [
        row for row, held in zip(triples(data.pairs), new, strict=True) if not held
    ]
    assert len(split.known(3)) == len(split.known()) + 3 * len(split.users)


def test_histories_are_the_first_pairs_in_the_order_of_time(data, split):
    for user, posts in zip(split.users.tolist(), split.histories(10), strict=True):
        mine = [post for one, post, _ in triples(data.pairs) if one == user]
        shown = [post for post in mine if not data.posts.deleted[post] and not data.blocked(user, post)]
        assert posts.tolist() == shown[:10]
        assert len(shown) > max(AFTER)


def test_the_next_post_is_ranked_among_all_but_the_ones_before(data, split):
    task = split.task(3)
    assert task.users.tolist() == split.users.tolist()
    pairs = data.pairs
    assert task.relevant[1].tolist() == pairs.posts[split.first[:, 3]].tolist()
    hidden = set(zip(*(part.tolist() for part in task.hidden), strict=True))
    expected = {(row, post) for row, posts in enumerate(split.histories(3)) for post in posts.tolist()}
    relevant = set(zip(*(part.tolist() for part in task.relevant), strict=True))
    blocked = {
        (row, post)
        for row, user in enumerate(split.users.tolist())
        for post in range(len(data.posts.ids))
        if data.blocked(np.array([user]), np.array([post]))[0]
    }
    assert hidden == expected | relevant | blocked


def test_a_model_that_knows_what_follows_beats_popularity_and_is_given_no_more_than_the_history():
    # Everybody likes the posts from their own first one on, in order.
    events = [
        (10 * user, 100 * (1 + (user + like) % 20), 50.0 + like) for user in range(1, 9) for like in range(12)
    ]
    feed = dataset(events, users=8, posts=20)
    split = hold_out_users(feed, np.random.default_rng(1), share=0.25)
    known = split.known()
    ease = fit_ease(history_matrix(known, 20), 1.0)
    model = NextNumber(20)
    found = evaluate_new_users(
        split,
        {"next": model, "EASE": ease, "popularity": IgnoresHistory(PopularityBaseline(feed.posts, known))},
        {"EASE, refitted": lambda pairs: fit_ease(history_matrix(pairs, 20), 1.0)},
    )
    assert {name: sorted(rows) for name, rows in found.items()} == dict.fromkeys(found, sorted(AFTER))
    assert {len(history) for history in model.seen} == set(AFTER)
    assert all(found["next"][after].tolist() == [1.0] * len(split.users) for after in AFTER)
    assert found["popularity"][3].mean() < found["next"][3].mean()


def test_ease_scores_a_history_as_the_sum_of_its_posts_weights(data):
    ease = fit_ease(history_matrix(data.pairs, len(data.posts.ids)), 10.0)
    posts = data.pairs.posts[data.pairs.offsets[5] : data.pairs.offsets[6]].astype(np.int64)
    np.testing.assert_allclose(ease.scores([posts])[0], ease.catalog(np.array([5]))[0], rtol=1e-5, atol=1e-6)
    one, two = ease.scores([posts[:1], posts[:2]])
    np.testing.assert_allclose(two - one, ease.scores([posts[1:2]])[0], rtol=1e-5, atol=1e-6)
    assert not ease.scores([posts[:0]]).any()


def test_without_users_with_enough_pairs_nothing_is_measured():
    with pytest.raises(NothingToLearn, match="too few users"):
        hold_out_users(dataset([(10, 100, 1.0), (20, 200, 2.0)]), np.random.default_rng(0))
