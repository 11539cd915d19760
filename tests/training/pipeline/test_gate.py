"""Versions are compared on the same held-out pairs, which none was trained on."""

from dataclasses import replace

import numpy as np
import pytest

from animora_artifact.manifest import HEURISTIC, PARENT
from animora_training.data.dataset import Posts, Rows
from animora_training.data.split import HeldOut
from animora_training.importers.sample import SampleSize
from animora_training.importers.sample_activity import make_feed
from animora_training.pipeline.gate import compare_with_active, unseen
from animora_training.pipeline.held_out_ranks import FEWEST_PAIRS, HeldOutRanks
from tests.support.datasets import NOW, as_dataset, assemble
from tests.support.days import fitted, parent, without
from tests.support.fits import quick_config

CONFIG = quick_config(mlp_embedding=8, hidden=(8,), feature_width=32, als_regularisation=10.0, max_epochs=3)
GENTLE = replace(CONFIG, learning_rate=0.0005)
HARMFUL = replace(CONFIG, learning_rate=0.9, l2=100.0, warmup_epochs=0.0)
MARGIN = 0.01
LAST_OF_ALL_YEARS = 253_402_300_799.0


@pytest.fixture(scope="module")
def today():
    return as_dataset(make_feed(SampleSize(users=500, posts=300, pairs=12_000, width=24), 0, NOW))


@pytest.fixture(scope="module")
def yesterday(today):
    return without(today, today.pairs.times > np.quantile(today.pairs.times, 0.8))


@pytest.fixture(scope="module")
def first(yesterday):
    return fitted(yesterday, CONFIG)


@pytest.fixture(scope="module")
def second(today):
    return fitted(today, CONFIG)


def compared(new, active, config=CONFIG, epochs_seen=None):
    on_epoch = (
        (lambda epoch, epochs: None) if epochs_seen is None else (lambda *news: epochs_seen.append(news))
    )
    return compare_with_active(new.evaluated, config, active.artifact, on_epoch)


def test_pairs_that_are_newer_or_of_unknown_users_are_unseen(first, yesterday):
    window, vocabulary = first.artifact.manifest.data_window, first.artifact.vocabulary
    users, posts = vocabulary.user_ids[:2].tolist(), vocabulary.post_ids[:2].tolist()
    end = window.end.timestamp()
    nobody, nothing = 10**9, 10**9 + 1
    # A later event of a known pair does not make the pair newer.
    events = [
        (users[0], posts[0], end - 5),
        (users[0], posts[0], end + 5),
        (users[0], posts[1], end),
        (users[1], posts[0], end + 1),
        (users[1], nothing, end - 9),
        (nobody, posts[0], end - 9),
    ]
    user_ids, post_ids = np.unique([[user, post] for user, post, _ in events], axis=0).T
    user_ids, post_ids = np.unique(user_ids), np.unique(post_ids)
    empty = np.zeros((len(post_ids), 0), np.float16)
    rows = Rows(
        np.searchsorted(user_ids, [user for user, *_ in events]),
        np.searchsorted(post_ids, [post for _, post, _ in events]),
        np.array([time for *_, time in events]),
    )
    live = np.zeros(len(post_ids), np.bool_)
    data = assemble(
        user_ids,
        Posts(post_ids, np.zeros(len(post_ids), np.int64), np.zeros(len(post_ids)), live, empty, empty),
        rows,
        np.zeros((0, 2), np.int64),
    )
    held_out = HeldOut(rows.users[1:], rows.posts[1:, None], rows.times[1:])
    assert unseen(first.artifact, data, held_out).tolist() == [False, False, True, True, True]


def test_one_like_from_the_future_hides_nothing_of_what_is_newer(yesterday, today, first, second):
    def misdated(data):
        """Moves the last like of the first user, and its event, into the year 9999."""
        user = int(np.flatnonzero(np.diff(yesterday.pairs.offsets))[0])
        parts = {}
        for name in ("pairs", "events"):
            rows = getattr(data, name)
            times = rows.times.copy()
            times[rows.offsets[user + 1] - 1] = LAST_OF_ALL_YEARS
            parts[name] = replace(rows, times=times)
        return replace(data, **parts)

    active = fitted(misdated(yesterday), CONFIG)
    usual = unseen(first.artifact, today, second.evaluated.holdout.reported)
    found = unseen(active.artifact, misdated(today), second.evaluated.holdout.reported)
    assert usual.sum() >= FEWEST_PAIRS
    assert abs(int(found.sum()) - int(usual.sum())) <= 2


def test_a_like_from_the_future_does_not_count_as_newer(first):
    vocabulary, end = first.artifact.vocabulary, first.artifact.manifest.data_window.end.timestamp()
    users, posts = vocabulary.user_ids[:3], vocabulary.post_ids[:1]
    empty = np.zeros((1, 0), np.float16)
    rows = Rows(np.arange(3), np.zeros(3, np.int64), np.array([end - 5, end + 5, LAST_OF_ALL_YEARS]))
    data = assemble(
        users,
        Posts(posts, np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.bool_), empty, empty),
        rows,
        np.zeros((0, 2), np.int64),
    )
    held_out = HeldOut(rows.users, rows.posts[:, None], rows.times)
    assert unseen(first.artifact, data, held_out).tolist() == [False, True, False]


def test_the_active_version_is_compared_on_pairs_newer_than_its_data(first, second):
    found = compared(second, first)
    assert found.basis.startswith("held-out pairs that are newer")
    assert FEWEST_PAIRS <= found.pairs <= second.record.data.judged_users
    assert found.low <= found.mean <= found.high
    assert not found.is_worse(MARGIN)


def test_a_worse_recipe_is_detected_on_the_same_data(second, today):
    worse = fitted(today, replace(CONFIG, factorisation="none", max_epochs=1, learning_rate=1e-6))
    epochs_seen: list[object] = []
    found = compared(worse, second, replace(CONFIG, factorisation="none"), epochs_seen)
    assert found.pairs == worse.record.data.judged_users
    assert found.is_worse(MARGIN)
    assert epochs_seen  # the active version's recipe was refitted without the held-out pairs
    assert worse.artifact.manifest.differences[HEURISTIC].is_worse(MARGIN)


def test_the_same_recipe_on_the_same_data_is_not_compared(second, today):
    other = fitted(today, replace(CONFIG, seed=1))
    found = compared(other, second, replace(CONFIG, seed=1))
    assert (found.pairs, found.is_worse(0.0)) == (0, False)
    assert "its recipe is the same" in found.basis
    held_back = compared(other, second, replace(CONFIG, als_regularisation=11.0))
    assert held_back.pairs > 0


def test_an_active_version_that_cannot_be_replayed_is_not_compared(first, second):
    wider = first.artifact.manifest.dimensions.model_copy(update={"image": 5})
    manifest = first.artifact.manifest.model_copy(update={"dimensions": wider})
    odd = replace(first, artifact=replace(first.artifact, manifest=manifest))
    found = compared(second, odd)
    assert found.pairs == 0
    assert "image embeddings are 24 wide, the model takes 5" in found.basis


def test_a_warm_start_that_is_worse_than_its_parent_is_detected(first, yesterday, today):
    earlier = parent(first, yesterday)
    good, worse = (fitted(today, config, earlier) for config in (GENTLE, HARMFUL))
    assert not good.artifact.manifest.differences[PARENT].is_worse(MARGIN)
    difference = worse.artifact.manifest.differences[PARENT]
    assert difference.pairs == worse.record.data.judged_users
    assert difference.is_worse(MARGIN)
    assert difference.other == pytest.approx(worse.record.qualities["its parent"]["ndcg@10"], abs=1e-5)
    assert compared(worse, first).is_worse(MARGIN)


def young_feed(stages, seed=0, users=150, tastes=5):
    """A feed at a stage of its growth: each user likes posts of one taste, mostly new ones."""
    sizes = (12, 60, 300, 900)[:stages]
    rng = np.random.default_rng(seed)
    likes, of_posts = rng.integers(0, tastes, users), rng.integers(0, tastes, sizes[-1])
    stage = np.searchsorted(sizes, np.arange(sizes[-1]), side="right")
    created = 1e9 + 86_400.0 * stage + rng.random(sizes[-1])
    chance = np.where(likes[:, None] == of_posts, 0.6, 0.06) * np.minimum(60 / np.bincount(stage), 1)[stage]
    whom, what = np.nonzero(rng.random(chance.shape) < chance)
    rows = Rows(whom, what, created[what] + 1 + rng.random(len(what)) * 40_000)
    empty = np.zeros((sizes[-1], 0), np.float16)
    live = np.zeros(sizes[-1], np.bool_)
    posts = Posts(np.arange(sizes[-1]), np.full(sizes[-1], 10**6), created, live, empty, empty)
    return assemble(np.arange(users), posts, rows, np.zeros((0, 2), np.int64))


def test_a_growing_feed_is_accepted_at_every_stage_though_its_metrics_fall():
    versions = [fitted(young_feed(stages), replace(CONFIG, seed=stages)) for stages in (1, 2, 3, 4)]
    figures = [version.artifact.manifest.metrics["ndcg@10"] for version in versions]
    assert figures[0] > figures[1] + MARGIN
    assert figures[1] > figures[2] + MARGIN
    for version in versions:
        assert not version.artifact.manifest.differences[HEURISTIC].is_worse(MARGIN)
    for new, active in zip(versions[1:], versions[:-1], strict=True):
        assert not compared(new, active).is_worse(MARGIN)


def test_equally_good_versions_are_rarely_refused_whatever_their_metrics(second):
    rng = np.random.default_rng(0)
    users, versions = 300, 200
    ease = rng.gamma(1.0, 6.0, users)
    ranks = np.floor(rng.gamma(2.0, ease[:, None] / 2.0, (users, versions))).astype(np.int64)
    figures = np.where(ranks < 10, 1 / np.log2(ranks + 2.0), 0.0).mean(axis=0)
    luckiest = int(np.argmax(figures))
    assert figures[luckiest] > figures.mean() + 2 * MARGIN
    refused = [
        HeldOutRanks(second.evaluated.holdout, ranks[:, version])
        .compare(ranks[:, version - 1], "held-out pairs")
        .is_worse(MARGIN)
        for version in range(versions)
    ]
    assert np.mean(refused) < 0.05
