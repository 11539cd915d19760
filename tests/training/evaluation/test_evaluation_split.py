from dataclasses import replace

import numpy as np
import pytest

from animora_training.data.dataset import ABSENT
from animora_training.data.split import HeldOut
from animora_training.errors import NothingToLearn
from animora_training.evaluation.evaluation_split import (
    latest_split,
    leave_one_out_split,
    ncf_split,
    time_ordered_split,
)
from tests.support.datasets import as_dataset, dataset, tiny_feed, triples


@pytest.fixture(scope="module")
def data():
    return as_dataset(tiny_feed())


def keys(data, interactions):
    return set(data.pair_keys(interactions.users, interactions.posts).tolist())


def test_test_pairs_come_after_all_training_data():
    data = dataset([(10, 100, 3.0), (10, 200, 7.0), (20, 200, 4.0)])
    split = ncf_split("pairs", data, HeldOut(np.array([0, 2]), np.array([[2, 3], [0, 1]]), np.zeros(2)))
    assert split.training is data.pairs
    assert split.moments.tolist() == [7.0, 0.0, 7.0, 0.0]
    assert split.task.moments.tolist() == [np.inf, np.inf]
    assert split.likes.tolist() == [3, 1]
    assert [rows.tolist() for rows in split.groups().values()] == [
        [False, False],
        [True, False],
        [False, True],
    ]


def test_held_out_pairs_are_neither_trained_on_nor_counted(data):
    split = leave_one_out_split(data, seed=0)
    held = set(data.pair_keys(split.sampled.users, split.sampled.candidates[:, 0]).tolist())
    assert len(split.training) + len(held) == len(data.pairs)
    assert not held & keys(data, split.training)
    assert not held & keys(data, split.events)
    assert held | keys(data, split.events) == keys(data, data.events)
    assert (split.task.moments == split.sampled.times).all()


def test_each_users_latest_pair_is_held_out_and_no_training_pair_is_later(data):
    split = latest_split(data, seed=0)
    pairs = {(user, post): time for user, post, time in triples(data.pairs)}
    latest = {user: post for user, post, _ in triples(data.pairs) if not data.posts.deleted[post]}
    several = np.diff(data.pairs.offsets) > 1
    held = dict(zip(split.sampled.users.tolist(), split.sampled.candidates[:, 0].tolist(), strict=True))
    assert held == {user: post for user, post in latest.items() if several[user]}
    # Pairs on deleted posts are never held out, and may be later.
    assert all(
        time <= pairs[user, held[user]] or data.posts.deleted[post]
        for user, post, time in triples(split.events)
        if user in held
    )
    keys_held = set(data.pair_keys(split.sampled.users, split.sampled.candidates[:, 0]).tolist())
    assert not keys_held & keys(data, split.events)
    assert keys_held | keys(data, split.training) == keys(data, data.pairs)


def test_the_latest_pair_is_ranked_among_posts_of_any_time():
    # Posts 300 to 2000 were created after the likes; the user's other one, 200, is not ranked.
    data = dataset([(10, 100, 3.0), (10, 200, 2.0), (20, 200, 2.0)], posts=20, deleted=(300,))
    split = latest_split(data, seed=0)
    assert split.name == "latest interactions"
    assert split.sampled.users.tolist() == split.task.users.tolist() == [0]
    assert split.task.relevant[1].tolist() == [0]
    drawn = split.sampled.candidates[0, 1:]
    assert set(drawn[drawn != ABSENT].tolist()) == set(range(3, 20))
    assert split.task.moments.tolist() == [np.inf]
    assert split.task.hidden[1].tolist() == [0, 1]  # itself, which is ranked all the same, and post 200
    assert split.moments[0] == split.events.times.max() == 2.0


def test_of_pairs_at_one_time_the_seed_chooses_which_is_held_out():
    events = [(10 * user, 100 * post, 1.0) for user in range(1, 31) for post in range(1, 6)]
    still = dataset(events, users=30, posts=20)
    first, same, other = (latest_split(still, seed).sampled.candidates[:, 0].tolist() for seed in (0, 0, 1))
    assert first == same != other
    assert set(first) == set(range(5))


def test_latest_pairs_with_too_few_negatives_are_dropped_and_counted():
    events = [(10, 100, 2.0), (10, 200, 3.0)]
    events += [(20, 100 * post, 10.0 + post) for post in range(1, 13)]
    split = latest_split(dataset(events, posts=14), 0)
    assert split.sampled.users.tolist() == [0]
    assert split.dropped == 1


def test_a_time_split_trains_on_no_later_event(data):
    split = time_ordered_split(data, seed=0, share=0.8)
    moment = split.sampled.times[0]
    assert max(time for *_, time in triples(split.training)) < moment
    assert split.events.times.max() < moment <= np.quantile(data.events.times, 0.81)
    rows, posts = split.task.relevant
    pairs = {(user, post): time for user, post, time in triples(data.pairs)}
    assert all(pairs[split.task.users[row], post] >= moment for row, post in zip(rows, posts, strict=True))
    assert (data.posts.created[posts] <= moment).all()
    assert np.bincount(rows).max() > 1
    # Negatives existed at the time, and their user never interacted with them.
    drawn = split.sampled.candidates[:, 1:]
    present = split.sampled.present[:, 1:]
    assert (data.posts.created[drawn[present]] <= moment).all()
    assert not np.isin(
        data.pair_keys(split.sampled.users[:, None], drawn)[present], list(keys(data, data.pairs))
    ).any()
    first = split.sampled.candidates[:, 0]
    assert all(first[row] in posts[rows == row] for row in range(len(first)))


def test_placeholder_times_cannot_be_split_by_time(data):
    still = replace(data.events, times=np.zeros(len(data.events)))
    with pytest.raises(NothingToLearn, match=r"one time .* evaluate by leave-one-out"):
        time_ordered_split(replace(data, events=still), 0, 0.9)


@pytest.mark.parametrize(
    "make",
    [
        lambda data: leave_one_out_split(data, 0),
        lambda data: latest_split(data, 0),
        lambda data: time_ordered_split(data, 0, 0.5),
        lambda data: ncf_split(
            "pairs", data, HeldOut(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), np.zeros(0))
        ),
    ],
)
def test_a_split_without_test_pairs_is_refused(make):
    with pytest.raises(NothingToLearn):
        make(dataset([(10, 100, 1.0), (20, 600, 2.0)]))
    with pytest.raises(NothingToLearn):
        make(dataset([]))


def test_rows_with_too_few_negatives_are_dropped_and_counted():
    # Everybody has liked two posts; the first user's latest came when there were three posts.
    events = [(10, 100, 2.0), (10, 200, 3.0), (20, 100, 30.0), (20, 300, 31.0)]
    split = leave_one_out_split(dataset(events, posts=20), 0)
    assert split.task.users.tolist() == split.sampled.users.tolist() == [1]
    assert split.dropped == 1
    assert split.sampled.mean_candidates == 19
    with pytest.raises(NothingToLearn, match="too few posts"):
        leave_one_out_split(dataset(events, posts=6), 0)


def test_a_test_pair_without_a_negative_is_dropped_and_counted():
    data = dataset([(10, 100, 3.0), (20, 200, 4.0)])
    held_out = HeldOut(np.array([0, 1]), np.array([[2, ABSENT], [0, 3]]), np.zeros(2))
    split = ncf_split("pairs", data, held_out)
    assert split.sampled.users.tolist() == [1]
    assert split.dropped == 1
