import numpy as np
import pytest

from animora_training.data.dataset import ABSENT, Rows
from animora_training.errors import NotFinite
from animora_training.evaluation.full_ranking import rank_catalog
from animora_training.evaluation.task import task_by_pair, task_by_user
from tests.support.datasets import as_dataset, dataset, tiny_feed
from tests.training.evaluation.recommenders import Table, random_table


def relevant(*triples):
    users, posts, times = zip(*triples, strict=True)
    return Rows(np.array(users), np.array(posts), np.array(times, np.float64))


def slow_ranks(table, task, data, row):
    """The row's relevant posts, each with (before, higher, ties), and its first ten, one by one."""
    user = task.users[row]
    hidden = set(task.hidden[1][task.hidden[0] == row].tolist())
    wanted = task.relevant[1][task.relevant[0] == row].tolist()
    posts = data.posts
    shown = [
        post
        for post in np.flatnonzero(task.eligible).tolist()
        if post not in hidden and posts.created[post] <= task.moments[row] and post not in wanted
    ]

    def key(post):
        return (-table.scores[user, post], -posts.created[post], -posts.ids[post])

    counts = [
        (
            sum(key(other) < key(post) for other in shown),
            sum(table.scores[user, other] > table.scores[user, post] for other in shown),
            sum(table.scores[user, other] == table.scores[user, post] for other in shown),
        )
        for post in wanted
    ]
    return counts, len(shown), set(sorted(shown + wanted, key=key)[:10])


@pytest.mark.parametrize("several", [True, False])
def test_a_feeds_full_ranking_equals_ranking_one_by_one(several):
    data = as_dataset(tiny_feed())
    table = random_table(len(data.user_ids), len(data.posts.ids))
    chosen = np.random.default_rng(1).random(len(data.pairs)) < 0.1
    training = data.pairs.take(~chosen)
    held = data.pairs.take(chosen)
    rows = Rows(held.users, held.posts.astype(np.int64), held.times)
    if several:
        task = task_by_user(data, training, rows)
    else:
        rows = rows.take(~data.posts.deleted[rows.posts])
        task = task_by_pair(data, training, rows)
    ranks = rank_catalog(table, task, data.posts)
    for row in range(len(task.users)):
        counts, shown, first = slow_ranks(table, task, data, row)
        mine = ranks.rows == row
        assert list(zip(ranks.before[mine], ranks.higher[mine], ranks.ties[mine], strict=True)) == counts
        assert ranks.irrelevant[row] == shown
        assert set(ranks.lists[row].tolist()) - {ABSENT} == first


def test_nothing_is_ranked_that_the_server_would_not_show():
    # Post 200 was liked before, 300 is deleted, 400 is behind a block, 600 came after the moment.
    data = dataset([(10, 200, 2.0)], deleted=(300,), blocks=((10, 40),))
    data.posts.authors[4:] = 20
    task = task_by_pair(data, data.pairs, relevant((0, 0, 5.5)))
    ranks = rank_catalog(Table(np.zeros((4, 6))), task, data.posts)
    assert ranks.irrelevant.tolist() == [1]
    assert set(ranks.lists[0].tolist()) == {0, 4, ABSENT}


def test_a_users_other_test_pair_is_not_ranked_as_irrelevant():
    data = dataset([(10, 100, 1.0)])
    task = task_by_pair(data, data.pairs, relevant((0, 1, 9.0), (0, 2, 9.0)))
    ranks = rank_catalog(Table(np.array([[0, 1, 2, 3, 0, 0]] * 4, np.float64)), task, data.posts)
    assert ranks.before.tolist() == [1, 1]
    assert ranks.irrelevant.tolist() == [3, 3]


def test_pairs_that_the_server_would_not_show_are_not_relevant():
    data = dataset([(10, 100, 1.0)], deleted=(300,), blocks=((20, 10),))
    pairs = relevant((0, 1, 1.0), (0, 2, 1.0), (0, 3, 1.0), (1, 0, 1.0), (2, 4, 1.0))
    task = task_by_user(data, data.pairs, pairs, np.arange(6) != 4)
    assert task.users.tolist() == [0]
    assert task.relevant[1].tolist() == [3]


def test_a_task_without_rows_has_no_ranks():
    data = dataset([(10, 100, 1.0)])
    task = task_by_user(data, data.pairs, relevant((0, 1, 1.0)), np.zeros(6, np.bool_))
    ranks = rank_catalog(Table(np.zeros((4, 6))), task, data.posts)
    assert (len(ranks.before), len(ranks.irrelevant), ranks.lists.shape) == (0, 0, (0, 10))


def test_a_catalog_whose_scores_are_not_finite_is_not_ranked():
    data = dataset([(10, 100, 1.0)])
    task = task_by_user(data, data.pairs, relevant((0, 1, 1.0)))
    with pytest.raises(NotFinite):
        rank_catalog(Table(np.full((4, 6), np.nan)), task, data.posts)
