from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from animora_training.data.dataset import ABSENT, Dataset, collect
from animora_training.errors import NotFinite, NothingToLearn
from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import AlsSettings, factorize
from animora_training.modeling.initialization import new_initialization
from animora_training.modeling.network import NeuCF
from animora_training.modeling.training_set import training_set
from animora_training.pipeline.holdout import FitHoldOut
from tests.support.datasets import as_dataset, dataset, tiny_feed
from tests.support.networks import randomised
from tests.training.evaluation.recommenders import Table

CONFIG = FitConfig(factors=4, hidden=(8,), holdout_negatives=20, seed=1)


@pytest.fixture(scope="module")
def data():
    return as_dataset(tiny_feed())


@pytest.fixture(scope="module")
def holdout(data):
    return FitHoldOut.of(data, CONFIG)


def test_half_of_the_users_are_selection_users_and_half_reporting_users(holdout):
    users, selection = holdout.held_out.users, holdout.held_out.users[holdout.selection]
    assert holdout.users == len(np.unique(users))
    assert len(np.unique(selection)) == holdout.users // 2
    reported = holdout.reported
    assert set(reported.users.tolist()) == set(users.tolist()) - set(selection.tolist())
    assert len(reported.users) == len(np.unique(reported.users))
    assert reported.candidates.shape == (len(reported.users), 1 + 20)
    assert holdout.held_out.candidates.shape[1] > 1 + 20  # more negatives reduce the variance


def test_with_few_users_selection_users_have_several_pairs_and_equal_weights(holdout, data):
    selection = holdout.held_out.users[holdout.selection]
    counts = np.bincount(selection, minlength=len(data.user_ids))
    assert counts.max() > 1
    assert (counts <= np.maximum(np.diff(data.pairs.offsets) // 10, 1)).all()
    # A user whose held-out posts all rank first has hit ratio 1; all others have 0.
    found = int(np.argmax(counts))
    scores = np.zeros((len(data.user_ids), len(data.posts.ids)))
    held_out = holdout.held_out.candidates[:, 0]
    scores[holdout.held_out.users, held_out] = np.where(holdout.held_out.users == found, 1.0, -1.0)
    assert holdout.choice(Table(scores)).hit_ratio == pytest.approx(1 / len(np.unique(selection)))


def test_weights_of_held_out_pairs_are_computed_once_for_all_epochs(data):
    passes = []

    class Counting(Dataset):
        """Counts the passes over the users' pairs that weights take."""

        def pair_keys(self, users, posts):
            passes.append(len(users))
            return super().pair_keys(users, posts)

    holdout = FitHoldOut.of(Counting(*(getattr(data, field.name) for field in fields(data))), CONFIG)
    rows = training_set(data, holdout.training)
    network = new_initialization(rows, CONFIG).network.eval()
    passes.clear()
    first = holdout.evaluate(network, rows.vocabulary)
    assert passes
    passes.clear()
    assert holdout.evaluate(network, rows.vocabulary) == first
    assert not passes


def test_held_out_pairs_are_not_trained_on(holdout, data):
    left = collect(holdout.training.chunks(), len(data.user_ids))
    training = set(data.pair_keys(left.users, left.posts).tolist())
    held_out = set(data.pair_keys(holdout.held_out.users, holdout.held_out.candidates[:, 0]).tolist())
    assert not training & held_out
    assert len(training) + len(held_out) == len(data.pairs)
    everything = set(data.pair_keys(data.pairs.users, data.pairs.posts).tolist())
    assert training | held_out == everything
    drawn = holdout.held_out.candidates[:, 1:]
    users = np.broadcast_to(holdout.held_out.users[:, None], drawn.shape)[drawn != ABSENT]
    assert not everything & set(data.pair_keys(users, drawn[drawn != ABSENT]).tolist())


def test_the_seed_decides_the_selection_users(data, holdout):
    again, other = FitHoldOut.of(data, CONFIG), FitHoldOut.of(data, replace(CONFIG, seed=2))
    assert np.array_equal(holdout.selection, again.selection)
    assert np.array_equal(holdout.held_out.candidates, again.held_out.candidates)
    assert not np.array_equal(holdout.selection, other.selection)


def test_each_half_is_evaluated_on_its_own_users(holdout, data):
    rows = training_set(data, holdout.training)
    network = randomised(new_initialization(rows, CONFIG).network)
    before = holdout.evaluate(network, rows.vocabulary)
    reporting = np.isin(rows.vocabulary.user_ids, data.user_ids[holdout.reported.users])
    others = torch.from_numpy(np.flatnonzero(~reporting) + 1)
    # Only selection users get other vectors.
    chance = torch.Generator().manual_seed(1)
    network.user_table[others] = torch.randn(len(others), network.shape.embedding, generator=chance)
    after = holdout.evaluate(network, rows.vocabulary)
    assert before.choice != after.choice
    assert before.metrics == after.metrics
    assert before.reliability == after.reliability


def test_a_hold_out_of_fewer_than_two_users_is_refused():
    with pytest.raises(NothingToLearn, match="import more likes and comments"):
        FitHoldOut.of(dataset([(10, 100, 1.0), (10, 200, 2.0), (20, 100, 3.0)]), CONFIG)


def few_posts(posts, users=40, likes=3):
    """Users who each like the same number of posts."""
    events = [
        (10 * (user + 1), 100 * (1 + (user + 3 * like) % posts), 1000.0 + user + 50 * like)
        for user in range(users)
        for like in range(likes)
    ]
    return dataset(events, users=users, posts=posts)


def test_pairs_with_too_few_negatives_are_not_reported_and_counted():
    twelve = FitHoldOut.of(few_posts(12), CONFIG)  # nine negatives for each held-out post
    assert len(twelve.reported.users) == 0
    assert twelve.dropped == 20
    rows = training_set(twelve.dataset, twelve.training)
    judged = twelve.evaluate(randomised(new_initialization(rows, CONFIG).network), rows.vocabulary)
    assert (judged.metrics, judged.reliability) == ({}, ())
    assert 0 < judged.choice.ndcg < 1
    assert twelve.baselines() == {}
    thirteen = FitHoldOut.of(few_posts(13), CONFIG)
    assert (len(thirteen.reported.users), thirteen.dropped) == (20, 0)
    assert thirteen.reported.mean_candidates == 11


def test_posts_created_after_their_likes_are_ranked_among_posts_liked_by_then(data):
    late = replace(data, posts=replace(data.posts, created=np.full(len(data.posts.ids), 2e9)))
    reported = FitHoldOut.of(late, CONFIG).reported
    first_like = np.full(len(data.posts.ids), np.inf)
    np.minimum.at(first_like, data.events.posts, data.events.times)
    drawn, present = reported.candidates[:, 1:], reported.present[:, 1:]
    assert len(reported.users) > 20
    assert (
        first_like[drawn][present] <= np.broadcast_to(reported.times[:, None], drawn.shape)[present]
    ).all()


def test_a_fit_without_any_negative_is_refused():
    everybody_likes_all = [
        (10 * user, 100 * post, float(user + post)) for user in (1, 2, 3) for post in (1, 2, 3)
    ]
    with pytest.raises(NothingToLearn, match=r"animora\.posts\.created_at is not later than the likes"):
        FitHoldOut.of(dataset(everybody_likes_all, posts=3), CONFIG)


def test_scores_that_are_not_finite_are_refused(holdout, data):
    rows = training_set(data, holdout.training)
    network = randomised(new_initialization(rows, CONFIG).network)
    network.bias.data.fill_(float("nan"))
    with pytest.raises(NotFinite, match="scores are not finite"):
        holdout.evaluate(network, rows.vocabulary)


def test_calibration_is_measured_on_the_published_probabilities(holdout, data):
    rows = training_set(data, holdout.training)
    strength = AlsSettings(alpha=10.0, regularisation=5.0)
    network = new_initialization(rows, CONFIG, factorize(rows, CONFIG, strength)).network
    right = holdout.evaluate(network, rows.vocabulary)
    off = NeuCF.holding(network.shape, {name: value.clone() for name, value in network.state_dict().items()})
    wrong = holdout.evaluate(off.rescaled(2.0, 1.5), rows.vocabulary)
    assert wrong.ranks == right.ranks
    assert 2.0 * wrong.scaling.slope == pytest.approx(right.scaling.slope, rel=0.02)
    assert wrong.metrics["calibration_error"] > right.metrics["calibration_error"] + 0.01
    assert wrong.published.error == pytest.approx(right.published.error, abs=1e-3)
    bins = wrong.published.reliability
    predicted, observed = (
        sum(getattr(one, name) * one.count for one in bins) for name in ("predicted", "observed")
    )
    assert predicted == pytest.approx(observed, rel=0.25)
