import shutil
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from animora_artifact.network import load_network
from animora_artifact.verification import verify
from animora_training.data.split import leave_one_out
from animora_training.errors import CannotWrite, Interrupted, InvalidInput, NotFinite, NothingToLearn
from animora_training.evaluation.metrics import mean_area_under_curve
from animora_training.evaluation.network_ranking import PostScorer, rank_with_artifact
from animora_training.importers.sample import SampleSize, make_world
from animora_training.importers.sample_activity import make_feed
from animora_training.modeling.process_group import SINGLE_PROCESS, ProcessGroup
from animora_training.pipeline.checkpoint import Checkpoints
from animora_training.pipeline.fit import FitContext, fit
from tests.support.datasets import NOW, as_dataset, dataset, tiny_feed
from tests.support.fits import quick_config

SIZE = SampleSize(users=900, posts=900, pairs=36_000, width=48)
CONFIG = quick_config(
    patience=3, learning_rate=0.01, user_learning_rate=5.0, warmup_epochs=1.0, l2=1.0, seed=3
)
QUICK = replace(CONFIG, factors=4, hidden=(8,), max_epochs=3, als_regularisation=0.0)
# Starts from random tables, so that training improves.
QUICKEST = replace(QUICK, factorisation="none", learning_rate=0.03)
HARMFUL = replace(QUICK, learning_rate=0.9, l2=1000.0, warmup_epochs=0.0, patience=2, max_epochs=20)
CREATED_AT = datetime(2026, 11, 23, tzinfo=UTC)


def context(checkpoints=None, on_epoch=lambda epoch, epochs: None):
    return FitContext(
        CREATED_AT, torch.device("cpu"), SINGLE_PROCESS, checkpoints or Checkpoints(None, ""), on_epoch
    )


@pytest.fixture(scope="module")
def data():
    return as_dataset(make_feed(SIZE, 0, NOW))


@pytest.fixture(scope="module")
def tiny():
    return as_dataset(tiny_feed())


@pytest.fixture(scope="module")
def recorded():
    return []


@pytest.fixture(scope="module")
def fitted(data, recorded):
    return fit(data, CONFIG, context(on_epoch=lambda *news: recorded.append(news)))


def test_neucf_beats_both_baselines_and_its_initialization_on_unseen_pairs(fitted):
    qualities = fitted.record.qualities
    assert next(iter(qualities)) == "NeuCF"
    for name in ("popularity", "heuristic"):
        assert qualities["NeuCF"]["ndcg@10"] > 1.2 * qualities[name]["ndcg@10"]
        assert qualities["NeuCF"]["hr@10"] > 1.1 * qualities[name]["hr@10"]
    assert qualities["NeuCF"]["ndcg@10"] > qualities["its factorisation"]["ndcg@10"]


def test_cold_posts_are_ranked_better_than_by_chance_for_those_who_like_them(fitted, data):
    world = make_world(SIZE, 0, NOW)
    users, posts = np.flatnonzero(world.active), np.flatnonzero(~world.warm)
    vocabulary = fitted.artifact.vocabulary
    assert not np.isin(data.posts.ids[posts], vocabulary.post_ids).any()
    scorer = PostScorer(load_network(fitted.artifact.model, torch.device("cpu")), vocabulary, data)
    scores = scorer.grid(users, np.tile(posts, (len(users), 1)))
    assert mean_area_under_curve(scores, world.likes(users + 1, posts + 1)) > 0.65


def test_every_epoch_is_recorded_and_the_refit_has_the_best_number_of_epochs(fitted, recorded):
    epochs, chosen = fitted.record.epochs, fitted.record.chosen_epoch
    assert [epoch for epoch, _ in recorded] == list(epochs)
    hold_out, refit = fitted.record.stage("hold-out"), fitted.record.stage("refit")
    assert [epoch.epoch for epoch in hold_out] == list(range(1, len(hold_out) + 1))
    assert chosen == 1 + int(np.argmax([epoch.ndcg10 for epoch in hold_out]))
    assert [epoch.epoch for epoch in refit] == list(range(1, chosen + 1))
    assert [epoch.learning_rate for epoch in refit] == pytest.approx(
        [epoch.learning_rate for epoch in hold_out[:chosen]], rel=0.2
    )
    assert fitted.artifact.manifest.hyperparameters["epochs"] == chosen
    totals = {epoch.stage: total for epoch, total in recorded}
    assert totals["hold-out"] == CONFIG.max_epochs
    assert totals["refit"] == chosen


def test_the_published_version_was_trained_on_all_pairs(fitted, data):
    manifest = fitted.artifact.manifest
    assert manifest.data_window.interactions == len(data.pairs)
    assert len(fitted.artifact.vocabulary.user_ids) == len(np.unique(data.pairs.users))
    verify(fitted.artifact)
    seen = rank_with_artifact(
        fitted.artifact, data, leave_one_out(data, 99, np.random.default_rng(0)).held_out
    )
    assert seen.quality.ndcg > fitted.record.qualities["NeuCF"]["ndcg@10"]


def test_the_manifest_has_the_configuration_and_the_metrics_of_the_hold_out(fitted):
    metrics, qualities = fitted.artifact.manifest.metrics, fitted.record.qualities
    assert metrics["hr@10"] == qualities["NeuCF"]["hr@10"]
    assert metrics["factorisation_ndcg@10"] == qualities["its factorisation"]["ndcg@10"]
    assert metrics["heuristic_ndcg@10"] == qualities["heuristic"]["ndcg@10"]
    assert metrics["holdout_users"] == fitted.record.data.judged_users == 428  # half of the 855 active users
    settings = fitted.artifact.manifest.hyperparameters
    chosen = {name: settings[name] for name in ("epochs", "kept_share")}
    assert settings == {**CONFIG.hyperparameters(), **chosen}


def same(first, second):
    """Whether two versions are the same, bit for bit."""
    names = ("user_rows", "segments", "post_rows", "image", "caption", "post_index", "probabilities")
    return (
        first.model == second.model
        and first.vocabulary.to_npz() == second.vocabulary.to_npz()
        and all(np.array_equal(getattr(first.golden, name), getattr(second.golden, name)) for name in names)
        and first.manifest.metrics == second.manifest.metrics
        and first.manifest.hyperparameters == second.manifest.hyperparameters
    )


def test_equal_seeds_give_equal_fits(tiny):
    first, again = (fit(tiny, QUICK, context()) for _ in range(2))
    assert same(first.artifact, again.artifact)
    other = fit(tiny, replace(QUICK, seed=2), context())
    assert not same(first.artifact, other.artifact)
    chosen = first.artifact.manifest.hyperparameters["als_regularisation"]
    assert isinstance(chosen, float)
    assert chosen > 0  # tuned


def test_the_initialization_is_published_if_training_only_harms(tiny):
    fitted = fit(tiny, HARMFUL, context())
    assert fitted.record.chosen_epoch == 0
    assert len(fitted.record.stage("hold-out")) == 2  # as long as patience lasts
    assert fitted.record.stopped == "early stopping"
    assert not fitted.record.stage("refit")
    assert fitted.record.qualities["NeuCF"] == fitted.record.qualities["its factorisation"]
    verify(fitted.artifact)


def test_without_a_factorisation_training_starts_from_random_tables(tiny):
    fitted = fit(tiny, replace(QUICK, factorisation="none", embeddings=False), context())
    assert fitted.artifact.manifest.hyperparameters["als_regularisation"] == 0
    verify(fitted.artifact)


class Keeping(Checkpoints):
    """Keeps a copy of every checkpoint, each in a folder of its own."""

    def __init__(self, folder, identity, interval):
        super().__init__(folder, identity, interval=interval)
        self.folder = folder
        self.kept = []

    def save(self, state, trainer):
        super().save(state, trainer)
        (file,) = self.folder.glob("*.pt")  # the previous one is deleted
        assert not list(self.folder.glob("*.staging"))
        copy = self.folder / f"kept-{len(self.kept)}"
        copy.mkdir()
        shutil.copy(file, copy)
        self.kept.append(copy)


@pytest.mark.parametrize(("interval", "every"), [(1000.0, 1), (0.0, 5)])
def test_a_fit_resumes_bit_for_bit_from_each_of_its_checkpoints(tiny, tmp_path, interval, every):
    """From checkpoints at the end of epochs and stages, and from some within an epoch."""
    checkpoints = Keeping(tmp_path, "same", interval)
    through = fit(tiny, QUICKEST, context(checkpoints))
    assert same(through.artifact, fit(tiny, QUICKEST, context()).artifact)
    assert through.record.chosen_epoch > 0
    assert len(checkpoints.kept) > 3 * every
    for folder in checkpoints.kept[::every]:
        resumed = fit(tiny, QUICKEST, context(Checkpoints(folder, "same", interval=1000.0)))
        assert same(through.artifact, resumed.artifact)
        assert repeatable(through.record) == repeatable(resumed.record)


def repeatable(record):
    """The record without durations."""
    epochs = tuple(
        epoch.model_copy(update={"seconds": 0.0, "pairs_per_second": 0.0}) for epoch in record.epochs
    )
    return record.model_copy(update={"epochs": epochs})


class Ending(Checkpoints):
    """Ends the fit after its first checkpoint."""

    def save(self, state, trainer):
        super().save(state, trainer)
        raise Interrupted


def test_als_settings_are_restored_from_a_checkpoint(tiny, tmp_path):
    with pytest.raises(Interrupted):
        fit(tiny, QUICK, context(Ending(tmp_path, "")))
    state = Checkpoints(tmp_path, "").load()
    assert state.als_settings is not None
    assert not state.results
    resumed = fit(tiny, QUICK, context(Checkpoints(tmp_path, "")))
    used = resumed.artifact.manifest.hyperparameters
    assert (used["als_alpha"], used["als_regularisation"]) == (
        state.als_settings.alpha,
        state.als_settings.regularisation,
    )


def test_a_checkpoint_of_another_fit_is_refused(tiny, tmp_path):
    checkpoints = Keeping(tmp_path, "one", 1000.0)
    fit(tiny, QUICKEST, context(checkpoints))
    folder = checkpoints.kept[0]
    with pytest.raises(InvalidInput, match=r"checkpoint-1-0-of-1\.pt: belongs to other data or another"):
        Checkpoints(folder, "another").load()
    (file,) = folder.glob("*.pt")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InvalidInput, match="is not a checkpoint; remove it to start over"):
        Checkpoints(folder, "one").load()
    file.rename(folder / "checkpoint-1-0-of-2.pt")
    with pytest.raises(InvalidInput, match="belongs to 2 processes, not 1: start as many"):
        Checkpoints(folder, "one").load()


def test_a_checkpoint_that_lacks_a_rank_is_ignored(tmp_path):
    for name in ("checkpoint-7-0-of-2.pt", "checkpoint-8-0-of-2.pt", "checkpoint-7-1-of-2.pt"):
        (tmp_path / name).touch()
    with pytest.raises(InvalidInput, match=r"checkpoint-7-0-of-2\.pt: is not a checkpoint"):
        Checkpoints(tmp_path, "one", FirstOfTwo(0, 2)).load()


class FirstOfTwo(ProcessGroup):
    """The first of two processes; nothing is sent to the other."""

    def on_rank_zero(self, work):
        return work()


def test_a_checkpoint_that_cannot_be_written_is_an_error(tiny, tmp_path):
    with pytest.raises(CannotWrite, match=r"nowhere/checkpoint-1-0-of-1\.pt: cannot be written"):
        fit(tiny, QUICKEST, context(Checkpoints(tmp_path / "nowhere", "one")))


def test_an_interrupted_fit_leaves_a_checkpoint_to_resume_from(tiny, tmp_path):
    through = fit(tiny, QUICKEST, context())
    seen = []

    def on_step(progress):
        seen.append(progress)
        if progress.done > 1.3:
            raise Interrupted

    with pytest.raises(Interrupted):
        fit(tiny, QUICKEST, replace(context(Checkpoints(tmp_path, "one")), on_step=on_step))
    assert [progress.done for progress in seen[:3]] == pytest.approx([1 / 8, 2 / 8, 3 / 8])
    assert {(progress.stage, progress.epochs) for progress in seen} == {("hold-out", QUICKEST.max_epochs)}
    resumed = fit(tiny, QUICKEST, context(Checkpoints(tmp_path, "one")))
    assert same(through.artifact, resumed.artifact)


def test_a_hold_out_needs_two_users_with_two_pairs():
    data = dataset([(10, 100, 1.0), (10, 200, 2.0), (20, 100, 3.0)])
    with pytest.raises(NothingToLearn, match="import more likes and comments"):
        fit(data, CONFIG, context())


def test_a_fit_with_infinite_embeddings_ends_and_names_a_post(tiny):
    posts = tiny.posts
    infinite = replace(tiny, posts=replace(posts, image=np.full_like(posts.image, np.inf)))
    with pytest.raises(NotFinite, match=rf"the image embedding of post {posts.ids[0]} is not finite"):
        fit(infinite, QUICK, context())


@pytest.mark.parametrize(
    ("choice", "named"),
    [({"l2": 1e39}, r"l2 \(1e\+39\)"), ({"user_learning_rate": 1e38}, "user_learning_rate")],
)
def test_a_fit_that_diverges_ends_and_names_the_settings_to_lower(tiny, choice, named):
    with pytest.raises(NotFinite, match=rf"diverged in epoch \d: .*{named}"):
        fit(tiny, replace(QUICK, **choice), context())


def test_the_manifest_has_the_mean_number_of_candidates_and_the_dropped_users(fitted):
    metrics, data = fitted.artifact.manifest.metrics, fitted.record.data
    assert metrics["holdout_candidates"] == pytest.approx(data.candidates, abs=1e-3)
    assert 90 < metrics["holdout_candidates"] <= 100
    assert metrics["holdout_dropped"] == data.dropped_users


def test_a_catalog_of_a_few_posts_gives_a_version_without_metrics():
    events = [
        (10 * (user + 1), 100 * (1 + (user + 3 * like) % 8), 1e9 + user + 50 * like)
        for user in range(40)
        for like in range(3)
    ]
    fitted = fit(dataset(events, users=40, posts=8), QUICK, context())
    assert fitted.artifact.manifest.metrics == {"holdout_users": 0, "holdout_dropped": 20}
    assert fitted.record.qualities == {}
    verify(fitted.artifact)


def test_published_probabilities_are_right_on_average(fitted):
    predicted, observed = (
        sum(getattr(one, name) * one.count for one in fitted.record.reliability)
        for name in ("predicted", "observed")
    )
    assert predicted == pytest.approx(observed, rel=0.15)
    assert fitted.artifact.manifest.metrics["calibration_error"] < 0.02
