from dataclasses import replace

import numpy as np
import pytest

from animora_training.errors import NothingToLearn
from animora_training.evaluation.cold_posts import evaluate_cold_posts, hold_out_posts, newer_posts
from tests.support.datasets import as_dataset, dataset, tiny_feed
from tests.training.evaluation.recommenders import Table


@pytest.fixture(scope="module")
def data():
    return as_dataset(tiny_feed())


def test_cold_posts_have_no_training_pairs(data):
    split = hold_out_posts(data, 0.2, np.random.default_rng(0))
    assert not split.cold[split.training.posts].any()
    assert split.cold[split.relevant.posts].all()
    assert not (split.cold & data.posts.deleted).any()
    liked = np.bincount(data.pairs.posts, minlength=len(data.posts.ids)) > 0
    assert split.cold.sum() == round(0.2 * (liked & ~data.posts.deleted).sum())
    known = np.diff(split.training.offsets) > 0
    lost = ~known[data.pairs.users] & split.cold[data.pairs.posts]
    assert len(split.training) + len(split.relevant) + lost.sum() == len(data.pairs)
    again = hold_out_posts(data, 0.2, np.random.default_rng(0))
    assert (split.cold == again.cold).all()


def test_only_posts_with_an_embedding_are_cold(data):
    bare = replace(data.posts, image=data.posts.image.copy(), caption=data.posts.caption.copy())
    bare.image[10:] = 0
    bare.caption[20:] = 0
    split = hold_out_posts(replace(data, posts=bare), 0.9, np.random.default_rng(0))
    assert set(np.flatnonzero(split.cold)) <= set(range(20))


def test_posts_created_after_the_split_time_are_cold(data):
    split = newer_posts(data, 0.7)
    moment = data.posts.created[split.cold].min()
    assert (data.posts.created[~split.cold] <= moment).all()
    assert not split.cold[split.training.posts].any()
    assert (split.relevant.times >= moment).all()
    assert len(split.relevant)


def test_a_recommender_that_has_seen_the_test_likes_beats_popularity_and_hindsight(data):
    split = hold_out_posts(data, 0.3, np.random.default_rng(1))
    scores = np.zeros((len(data.user_ids), len(data.posts.ids)), np.float32)
    scores[split.relevant.users, split.relevant.posts] = 1.0
    report = evaluate_cold_posts(data, split, {"seer": Table(scores)})
    assert report.posts == split.cold.sum()
    for rows in (report.among_cold, report.among_all):
        seer, popularity, hindsight = (
            {name: values.mean() for name, values in rows[who].items()}
            for who in ("seer", "popularity", "popularity in hindsight")
        )
        assert seer["ndcg@10"] == seer["auc"] == seer["expected ndcg@10"] == pytest.approx(1.0)
        assert popularity["ndcg@10"] < hindsight["ndcg@10"] < 1.0
        assert popularity["auc"] < hindsight["auc"] < 1.0
        assert len(rows["seer"]["auc"]) == report.users
    # Cold posts have no popularity, so popularity ranks them by chance.
    assert report.among_cold["popularity"]["auc"] == pytest.approx(np.full(report.users, 0.5))


def test_too_few_posts_to_hold_out_are_an_error(data):
    with pytest.raises(NothingToLearn, match="embedding"):
        hold_out_posts(data.without_embeddings(), 0.1, np.random.default_rng(0))
    lonely = dataset([(10, 100, 1.0), (20, 200, 2.0)])
    split = hold_out_posts(lonely, 0.5, np.random.default_rng(0))
    with pytest.raises(NothingToLearn, match="no user with other likes"):
        evaluate_cold_posts(lonely, split, {})
