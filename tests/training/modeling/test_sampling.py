from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from animora_training.modeling.config import FitConfig
from animora_training.modeling.process_group import ProcessGroup
from animora_training.modeling.sampling import StepSample, StepSampler, drop_probabilities, history_weights
from animora_training.modeling.training_set import training_set
from tests.support.datasets import as_dataset, dataset, tiny_feed

SAMPLED = FitConfig(posts_per_step=40, users_per_step=16, history_drop=0.4, drop_rate=0.1, seed=3)


@pytest.fixture(scope="module")
def data():
    tiny = as_dataset(tiny_feed())
    return training_set(tiny, tiny.pairs)


def step(data, config=SAMPLED, epoch=0, index=0, group=ProcessGroup()):  # noqa: B008  # it is frozen
    sampler = StepSampler(data, config, group)
    users = torch.split(sampler.order(epoch), sampler.users_per_step)[index]
    return sampler.step(epoch, index, users)


def tensors(sample):
    values = {field.name: getattr(sample, field.name) for field in fields(StepSample)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def same(first, second):
    return all(torch.equal(value, tensors(second)[name]) for name, value in tensors(first).items())


def test_an_epoch_has_every_user_once_in_an_order_of_its_own(data):
    sampler = StepSampler(data, SAMPLED, ProcessGroup())
    orders = [sampler.order(epoch) for epoch in range(2)]
    for order in orders:
        assert order.sort().values.tolist() == list(range(1, data.users))
    assert not torch.equal(*orders)
    assert sampler.steps == len(torch.split(orders[0], sampler.users_per_step))


def test_a_step_depends_on_seed_epoch_and_number_alone(data):
    drawn = step(data, epoch=2, index=1)
    assert same(drawn, step(data, epoch=2, index=1))
    for other in (
        step(data, epoch=3, index=1),
        step(data, epoch=2, index=2),
        step(data, FitConfig(posts_per_step=40, users_per_step=16, history_drop=0.4, seed=4), 2, 1),
    ):
        assert not torch.equal(drawn.rows, other.rows)


@pytest.mark.parametrize("world", [2, 3, 40])
@pytest.mark.parametrize("posts", [40, 1000])
def test_several_processes_draw_the_samples_of_one(data, world, posts):
    config = FitConfig(posts_per_step=posts, users_per_step=16, history_drop=0.4, seed=3)
    alone = tensors(step(data, config))
    owner = alone["users"] % world
    found = []
    for rank in range(world):
        sample = step(data, config, group=ProcessGroup(rank, world))
        part = tensors(sample)
        for name in ("rows", "dropped", "drawn"):
            assert torch.equal(part[name], alone[name])
        mine = owner == rank
        assert torch.equal(part["users"], alone["users"][mine])
        is_own_positive = mine[alone["segments"]]
        assert torch.equal(sample.accidental_hits(), step(data, config).accidental_hits()[mine])
        for name in set(part) - {"users", "rows", "dropped", "drawn", "segments", "hit_users", "hit_columns"}:
            assert torch.equal(part[name], alone[name][is_own_positive]), name
        assert torch.equal(
            part["users"][part["segments"]], alone["users"][alone["segments"][is_own_positive]]
        )
        found.append(part["users"])
    assert torch.cat(found).sort().values.tolist() == alone["users"].sort().values.tolist()


pairs_of_few = st.sets(
    st.tuples(st.integers(1, 5), st.integers(1, 8)), min_size=1, max_size=30
)  # of user and post


@settings(max_examples=60, deadline=None)
@given(pairs_of_few, st.integers(1, 10), st.sets(st.integers(1, 8), max_size=7), st.integers(0, 3))
def test_the_pairs_of_a_step_equal_a_plain_loops(pairs, posts_per_step, deleted, seed):
    deleted -= {min(post for _, post in pairs)}  # one live post at least is liked
    world = dataset(
        [(10 * user, 100 * post, 1.0) for user, post in pairs],
        users=5,
        posts=8,
        deleted=tuple(100 * post for post in deleted),
    )
    rows = training_set(world, world.pairs)
    sample = step(rows, FitConfig(posts_per_step=posts_per_step, seed=seed))
    users, posts = rows.vocabulary.user_ids, rows.vocabulary.post_ids
    liked = {(10 * user, 100 * post) for user, post in pairs}

    of_user = [int(users[row - 1]) for row in sample.users]
    positives = [int(posts[sample.rows[place] - 1]) for place in sample.positives]
    assert sorted(zip((of_user[at] for at in sample.segments), positives, strict=True)) == sorted(liked)
    assert sample.segments.tolist() == sorted(sample.segments.tolist())

    negatives = [int(posts[sample.rows[place] - 1]) for place in sample.drawn]
    assert len(set(negatives)) == len(negatives)
    live = {int(post) for post in posts} - {100 * post for post in deleted}
    assert set(negatives) <= live
    if len(live) <= posts_per_step:
        assert set(negatives) == live
    assert sample.accidental_hits().tolist() == [
        [(user, post) in liked for post in negatives] for user in of_user
    ]

    assert sample.rows[0] == 0
    assert sample.rows.tolist() == sorted(set(sample.rows.tolist()))


def test_a_small_catalog_is_used_whole_and_a_large_one_sampled(data):
    everything = step(data, FitConfig(posts_per_step=1000))
    assert everything.rows.tolist() == list(range(len(data.counts)))
    assert everything.drawn.tolist() == data.negatives.tolist()
    counts = torch.zeros(len(data.counts))
    for index in range(300):
        sample = StepSampler(data, SAMPLED, ProcessGroup()).step(0, index, torch.tensor([1]))
        assert 25 < len(sample.drawn) <= 40
        counts[sample.rows[sample.drawn]] += 1 / len(sample.drawn)
    # All live posts alike.
    assert not counts[~torch.isin(torch.arange(len(counts)), data.negatives)].any()
    expected = 300 / len(data.negatives)
    assert counts[data.negatives].mean() == pytest.approx(expected)
    assert (counts[data.negatives] - expected).abs().max() < 0.6 * expected


def test_a_history_is_weighted_by_its_length_and_compensated_for_hidden_posts(data):
    assert history_weights(torch.tensor([0, 1, 4])).tolist() == [0.0, 1.0, 0.5]
    whole = step(data, FitConfig(history_drop=0.0))
    lengths = torch.bincount(whole.segments)
    torch.testing.assert_close(whole.history, lengths.float().rsqrt()[whole.segments])
    draws = [
        StepSampler(data, SAMPLED, ProcessGroup()).step(0, index, torch.arange(1, data.users))
        for index in range(400)
    ]
    weights = torch.stack([sample.history for sample in draws])
    lengths = torch.bincount(draws[0].segments)[draws[0].segments]
    assert (weights == 0).float().mean() == pytest.approx(SAMPLED.history_drop, abs=0.01)
    torch.testing.assert_close(weights.mean(dim=0), lengths.float().rsqrt(), rtol=0.25, atol=0)


def test_rare_posts_ids_are_dropped_more_often(data):
    counts = torch.tensor([0, 1, 10, 1000])
    rates = drop_probabilities(counts, 0.1, 2.0)
    assert rates.tolist() == pytest.approx([1.0, 0.1 + 0.9 * 2 / 3, 0.1 + 0.9 * 2 / 12, 0.1 + 0.9 * 2 / 1002])
    assert drop_probabilities(counts, 0.0, 0.0).tolist() == [1.0, 0.0, 0.0, 0.0]
    everything = FitConfig(posts_per_step=1000, drop_rate=0.1, drop_scale=2.0)
    sampler = StepSampler(data, everything, ProcessGroup())
    dropped = [sampler.step(0, index, torch.tensor([1])).dropped for index in range(400)]
    seen = torch.stack(dropped).float().mean(dim=0)
    torch.testing.assert_close(seen, drop_probabilities(data.counts, 0.1, 2.0), rtol=0, atol=0.12)
    assert seen[0] == 1


def test_a_weighted_sample_stands_for_the_positives_of_a_very_active_user():
    posts = 60
    world = dataset(
        [(10, 100 * post, 1.0) for post in range(1, posts + 1)] + [(20, 100, 1.0), (20, 300, 1.0)],
        posts=posts,
    )
    rows = training_set(world, world.pairs)
    config = FitConfig(posts_per_step=20, history_drop=0.0, seed=1)
    sampler = StepSampler(rows, config, ProcessGroup(), max_likes=12)
    samples = []
    for epoch in range(40):
        sample = sampler.step(epoch, 0, torch.tensor([2, 1]))
        assert sample.segments.tolist() == [0] * 12 + [1] * 2
        of_first = sample.rows[sample.positives[:12]]
        assert len(set(of_first.tolist())) == 12
        assert sample.positive_weights.tolist() == [5.0] * 12 + [1.0] * 2
        assert sample.history[:12].tolist() == pytest.approx([5.0 * posts**-0.5] * 12)
        assert sample.history[12:].tolist() == pytest.approx([2**-0.5] * 2)
        # Nothing that the user likes becomes a negative because it is not in the sample.
        assert sample.accidental_hits()[0].all()
        assert len(sample.rows) <= 1 + 20 + 12 + 2
        samples.append(of_first)
    assert len(torch.unique(torch.cat(samples))) == posts
    everything = StepSampler(rows, config, ProcessGroup(), max_likes=posts).step(0, 0, torch.tensor([2, 1]))
    assert everything.positive_weights.tolist() == [1.0] * (posts + 2)


def test_a_post_without_likes_trains_the_unknown_row_no_more_than_a_frequent_one():
    probabilities = drop_probabilities(torch.tensor([0, 0, 1, 10_000]), 0.02, 1.0)
    assert probabilities[0] == 1.0
    assert probabilities[1] == pytest.approx(0.02)
    assert probabilities[2] == pytest.approx(0.51)
    assert probabilities[3] == pytest.approx(0.02, abs=1e-3)
