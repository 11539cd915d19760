import numpy as np

from animora_training.data.candidates import without_repeats
from animora_training.data.dataset import ABSENT, Rows, collect
from animora_training.data.split import (
    hold_out_pairs,
    latest_pairs,
    leave_one_out,
    moment_at,
    pairs_of_each,
    time_split,
)
from tests.support.datasets import as_dataset, assemble, dataset, tiny_feed, triples


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_latest_pair_of_each_user_with_another_one_is_held_out():
    data = dataset([(10, 100, 9.0), (10, 200, 8.0), (20, 300, 7.0), (30, 100, 1.0), (30, 300, 2.0)])
    split = leave_one_out(data, 2, rng())
    held_out = split.held_out
    assert held_out.users.tolist() == [0, 2]
    assert held_out.candidates[:, 0].tolist() == [0, 2]
    assert held_out.times.tolist() == [9.0, 2.0]
    assert sorted(triples(split.training)) == [(0, 1, 8.0), (1, 2, 7.0), (2, 0, 1.0)]


def test_a_later_comment_makes_its_pair_the_latest_and_all_its_events_are_held_out():
    data = dataset([(10, 100, 1.0), (10, 200, 2.0), (10, 100, 3.0)])
    split = leave_one_out(data, 1, rng())
    assert split.held_out.candidates[0, 0] == 0
    assert triples(split.training) == [(0, 1, 2.0)]
    assert triples(collect(split.remaining_events(data).chunks(), 4)) == [(0, 1, 2.0)]


def test_the_seed_breaks_ties_of_time():
    data = dataset([(10, post, 7.0) for post in (100, 200, 300, 400, 500)])
    chosen = [int(leave_one_out(data, 1, rng(seed)).held_out.candidates[0, 0]) for seed in range(20)]
    assert len(set(chosen)) > 2
    assert chosen == [int(leave_one_out(data, 1, rng(seed)).held_out.candidates[0, 0]) for seed in range(20)]


def test_deleted_posts_and_those_behind_a_block_are_not_held_out_but_trained_on():
    data = dataset(
        [(10, 100, 1.0), (10, 200, 2.0), (10, 300, 3.0), (10, 600, 4.0)], deleted=(600,), blocks=((10, 30),)
    )
    split = leave_one_out(data, 1, rng())
    assert split.held_out.candidates[0, 0] == 1
    assert sorted(triples(split.training)) == [(0, 0, 1.0), (0, 2, 3.0), (0, 5, 4.0)]


def test_negatives_are_exactly_the_unseen_posts_that_the_user_may_see():
    # Of ten posts 100 and 600 were liked, 300 is deleted, 200 is behind a block, 900 and 1000 came later.
    events = [(10, 100, 2.0), (10, 600, 8.0)]
    data = dataset(events, posts=10, users=2, deleted=(300,))
    data.posts.authors[1] = 77
    data = dataset(events, posts=10, users=2, deleted=(300,), blocks=((10, 77),))
    data.posts.authors[1] = 77
    candidates = leave_one_out(data, 20, rng()).held_out.candidates[0]
    drawn = candidates[candidates != ABSENT]
    assert sorted(data.posts.ids[drawn].tolist()) == [400, 500, 600, 700, 800]


def test_a_split_of_a_feed_is_deterministic_and_complete():
    data = as_dataset(tiny_feed())
    split, again = leave_one_out(data, 99, rng(4)), leave_one_out(data, 99, rng(4))
    assert (split.held_out.candidates == again.held_out.candidates).all()
    held_out = split.held_out
    assert len(split.training) + len(held_out.users) == len(data.pairs)
    events = split.remaining_events(data)
    kept = collect(events.chunks(), len(data.user_ids))
    assert len(events) == len(kept) < len(data.events)
    np.testing.assert_array_equal(
        np.unique(data.pair_keys(kept.users, kept.posts)),
        np.sort(data.pair_keys(split.training.users, split.training.posts)),
    )
    keys = data.pair_keys(data.events.users, data.events.posts)
    negatives = held_out.candidates[:, 1:]
    interacted = np.isin(data.pair_keys(held_out.users[:, None], negatives), keys) & (negatives != ABSENT)
    assert not interacted.any()
    assert not (data.posts.deleted[negatives] & (negatives != ABSENT)).any()


def test_a_split_in_several_chunks_equals_that_of_each_user():
    number = np.arange(400_000)
    times = rng(1).permutation(len(number)) + 1e6  # all posts exist by then
    rows = Rows(number % 1500, number // 1500 % 3000, times)
    small = dataset([], users=1500, posts=3000)
    data = assemble(small.user_ids, small.posts, rows, small.blocks)
    split = leave_one_out(data, 3, rng(2))
    last = np.zeros(1500)
    np.maximum.at(last, rows.users, rows.times)
    np.testing.assert_array_equal(split.held_out.users, np.arange(1500))
    np.testing.assert_array_equal(split.held_out.times, last)
    np.testing.assert_array_equal(np.sort(split.training.times), np.setdiff1d(times, last))
    touched = np.zeros((1500, 3000), np.bool_)
    touched[rows.users, rows.posts] = True
    assert not touched[split.held_out.users[:, None], split.held_out.candidates[:, 1:]].any()
    assert split.held_out.present.all()


def test_only_a_sample_of_many_users_is_held_out():
    data = as_dataset(tiny_feed())
    everyone = leave_one_out(data, 5, rng(3)).held_out
    chance = rng(3)
    split = hold_out_pairs(data, latest_pairs(data, chance).sample_users(7, chance), 5, chance)
    assert len(split.held_out.users) == 7
    assert len(split.training) == len(data.pairs) - 7
    places = np.searchsorted(everyone.users, split.held_out.users)
    np.testing.assert_array_equal(everyone.candidates[places, 0], split.held_out.candidates[:, 0])


def test_several_pairs_of_a_user_are_held_out_latest_first():
    times = rng(5).permutation(64) + 1.0
    events = [(10, 100 * (1 + number), time) for number, time in enumerate(times[:40])]
    events += [(20, 100 * (1 + number), time) for number, time in enumerate(times[40:])]
    data = dataset([*events, (30, 100, 1.0)], posts=40)
    latest = latest_pairs(data, rng(), most=3)
    split = hold_out_pairs(data, latest, 2, rng())
    # A tenth of 40 pairs is more than the maximum of three, of 24 it is two; a single pair stays.
    assert latest.users.tolist() == [0, 0, 0, 1, 1]
    assert sorted(latest.places.tolist()) == [0, 0, 1, 1, 2]
    for user, newest in ((0, np.sort(times[:40])[::-1]), (1, np.sort(times[40:])[::-1])):
        mine = latest.take(latest.users == user)
        assert data.pairs.times[mine.positions].tolist() == newest[mine.places].tolist()
    assert len(split.training) + 5 == len(data.pairs)
    kept = collect(split.remaining_events(data).chunks(), 3)
    assert sorted(triples(kept)) == sorted(triples(split.training))


def test_enough_pairs_are_held_out_over_all_users():
    data = dataset([(10, 100, 1.0), (10, 200, 2.0), (20, 100, 1.0), (20, 200, 2.0), (30, 100, 1.0)])
    assert pairs_of_each(data, 5) == 3
    assert pairs_of_each(data, 1) == 1
    assert pairs_of_each(dataset([]), 2) == 2


def test_a_split_by_time_holds_out_pairs_that_are_new_after_it():
    data = dataset(
        [
            *((10, 100, 1.0), (10, 200, 2.0), (10, 100, 5.0), (10, 300, 5.0), (10, 400, 6.0), (10, 300, 7.0)),
            *((20, 500, 4.9), (20, 600, 9.0), (30, 400, 8.0)),
        ],
        deleted=(600,),
        blocks=((30, 40),),
    )
    split = time_split(data, 5.0)
    assert triples(collect(split.training.chunks(), 4)) == [(0, 0, 1.0), (0, 1, 2.0), (1, 4, 4.9)]
    assert triples(split.held_out) == [(0, 2, 5.0), (0, 3, 6.0)]


def test_the_split_time_is_chosen_by_the_share_of_events_before_it():
    data = dataset([(10 * (1 + second % 4), 100, float(second)) for second in range(100)])
    assert 89 <= moment_at(data.events, 0.9) <= 90


def test_an_empty_data_set_has_an_empty_hold_out():
    split = leave_one_out(dataset([]), 5, rng())
    assert len(split.training) == len(split.held_out.users) == 0
    assert len(time_split(dataset([]), 0.0).held_out) == 0


def test_duplicate_entries_are_reduced_to_the_first():
    assert without_repeats(np.array([[3, 1, 3, 1, 2]])).tolist() == [[3, 1, ABSENT, ABSENT, 2]]
