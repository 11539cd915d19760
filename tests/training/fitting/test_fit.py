from datetime import UTC, datetime

import numpy as np
import pytest

from animora_training.data.split import leave_one_out
from animora_training.errors import NothingToLearn
from animora_training.feeds.sample import SampleSize, make_world
from animora_training.feeds.sample_activity import make_feed
from animora_training.fitting.export import FoldedNeuCF
from animora_training.fitting.fit import fit, judge
from animora_training.fitting.verification import verify
from animora_training.judging.evaluation import PostScorer, rank_with_artifact
from animora_training.judging.metrics import mean_area_under_curve
from animora_training.learning.config import FitConfig
from animora_training.learning.trainer import epochs
from animora_training.learning.training_set import training_set
from tests.training.worlds import NOW, as_dataset, dataset

SIZE = SampleSize(users=300, posts=600, pairs=12_000, width=48)
CONFIG = FitConfig(batch_positives=512, max_epochs=8, seed=1)
CREATED_AT = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture(scope="module")
def data():
    return as_dataset(make_feed(SIZE, 0, NOW))


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def fitted(data, told):
    return fit(data, CONFIG, CREATED_AT, told.append)


def test_neucf_beats_both_baselines_on_what_it_has_not_seen(fitted):
    report = fitted.report
    assert report.neucf.ndcg > 1.2 * max(report.popularity.ndcg, report.heuristic.ndcg)
    assert report.neucf.hit_ratio > 1.1 * max(report.popularity.hit_ratio, report.heuristic.hit_ratio)


def test_cold_posts_are_ranked_better_than_by_chance_for_those_who_like_them(fitted, data):
    world = make_world(SIZE, 0, NOW)
    users, posts = np.flatnonzero(world.active), np.flatnonzero(~world.warm)
    vocabulary = fitted.artifact.vocabulary
    assert not np.isin(data.posts.ids[posts], vocabulary.post_ids).any()
    rows = training_set(data, data.pairs)
    *_, last = (epoch for epoch, _ in zip(epochs(rows, CONFIG), range(fitted.report.epochs), strict=False))
    scorer = PostScorer(FoldedNeuCF(last.network).eval(), vocabulary, data)
    scores = scorer.grid(users, np.tile(posts, (len(users), 1)))
    liked = world.likes(users + 1, posts + 1)
    assert mean_area_under_curve(scores, liked) > 0.65


def test_every_epoch_is_reported_and_the_refit_takes_as_many_as_were_best(fitted, told):
    hold_out = [progress for progress in told if progress.stage == "hold-out"]
    refit = [progress for progress in told if progress.stage == "refit"]
    best = max(hold_out, key=lambda progress: progress.ndcg)
    assert [progress.epoch for progress in hold_out] == list(range(1, len(hold_out) + 1))
    assert len(hold_out) <= CONFIG.max_epochs
    assert fitted.report.epochs == best.epoch == len(refit)
    assert fitted.artifact.manifest.hyperparameters["epochs"] == best.epoch


def test_what_is_published_was_trained_on_everything(fitted, data):
    manifest = fitted.artifact.manifest
    assert manifest.data_window.interactions == len(data.pairs)
    assert len(fitted.artifact.vocabulary.user_ids) == len(np.unique(data.events.users))
    verify(fitted.artifact)
    seen = rank_with_artifact(
        fitted.artifact, data, leave_one_out(data, 99, np.random.default_rng(0)).held_out
    )
    assert seen.quality.ndcg > fitted.report.neucf.ndcg


def test_the_manifest_has_the_qualities_of_the_hold_out(fitted):
    report = fitted.report
    assert fitted.artifact.manifest.metrics == report.metrics()
    assert report.metrics()["heuristic_ndcg@10"] == pytest.approx(report.heuristic.ndcg, abs=1e-6)
    assert report.metrics()["hr@10"] == pytest.approx(report.neucf.hit_ratio, abs=1e-6)
    assert report.metrics()["holdout_users"] == report.users == 143  # half of the 285 active users


def test_a_fit_is_decided_by_its_seed(data):
    short = FitConfig(batch_positives=512, max_epochs=2, seed=1)
    first, again = (fit(data, short, CREATED_AT, lambda progress: None) for _ in range(2))
    assert first.report == again.report
    assert (first.artifact.golden.probabilities == again.artifact.golden.probabilities).all()
    other = judge(data, FitConfig(batch_positives=512, max_epochs=2, seed=2), lambda progress: None)
    assert other != first.report


def test_without_two_users_who_did_two_things_nothing_can_be_held_out():
    data = dataset([(10, 100, 1.0), (10, 200, 2.0), (20, 100, 3.0)])
    with pytest.raises(NothingToLearn, match="import more likes and comments"):
        fit(data, CONFIG, CREATED_AT, lambda progress: None)
