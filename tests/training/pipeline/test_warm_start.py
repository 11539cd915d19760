from dataclasses import replace

import numpy as np
import pytest
import torch

from animora_artifact.network import load_network
from animora_artifact.verification import verify
from animora_training.data.dataset import collect
from animora_training.data.split import exclude_none
from animora_training.errors import InvalidInput, InvalidOption, WidthMismatch
from animora_training.evaluation.metrics import mean_area_under_curve
from animora_training.evaluation.network_ranking import PostScorer
from animora_training.importers.sample import SampleSize, make_world
from animora_training.importers.sample_activity import make_feed
from animora_training.modeling.factorisation import AlsSettings
from animora_training.modeling.initialization import LOGITS
from animora_training.modeling.process_group import SINGLE_PROCESS, ProcessGroup
from animora_training.modeling.training_set import training_set
from animora_training.pipeline.holdout import FitHoldOut
from animora_training.pipeline.seen_pairs import SeenPairs
from animora_training.pipeline.warm_start import (
    ParentVersion,
    WarmStartState,
    copy_warm_start_files,
    warm_recipe,
)
from tests.support.datasets import NOW, as_dataset, dataset
from tests.support.days import Days, fitted, parent, without
from tests.support.fits import quick_config

SEED = 2
SIZE = SampleSize(users=300, posts=600, pairs=12_000, width=48)
CONFIG = quick_config(patience=8, learning_rate=0.003, seed=1)


@pytest.fixture(scope="module")
def days():
    return Days.of(as_dataset(make_feed(SIZE, SEED, NOW)), SEED, new=0.05)


@pytest.fixture(scope="module")
def yesterday(days):
    return fitted(days.yesterday, CONFIG)


@pytest.fixture(scope="module")
def earlier(yesterday, days):
    return parent(yesterday, days.yesterday)


@pytest.fixture(scope="module")
def warm(days, earlier):
    return fitted(days.today, CONFIG, earlier)


@pytest.fixture(scope="module")
def liking(days):
    """Mean AUC of a version over the posts that users have not interacted with."""
    today, world = days.today, make_world(SIZE, SEED, NOW)
    likes = world.likes(today.user_ids, today.posts.ids)
    touched = np.zeros(likes.shape, np.bool_)
    touched[today.pairs.users, today.pairs.posts] = True
    known_users, known_posts = touched.any(axis=1), touched.any(axis=0)

    def measure(version, users=None, posts=None):
        scorer = PostScorer(load_network(version.model, torch.device("cpu")), version.vocabulary, today)
        scores = scorer.catalog(np.arange(len(likes)))
        evaluated = ~touched & known_posts & (True if posts is None else posts)
        rows = np.flatnonzero(known_users & (True if users is None else users))
        areas = [
            mean_area_under_curve(scores[[row]][:, evaluated[row]], likes[[row]][:, evaluated[row]])
            for row in rows
        ]
        return np.nanmean(areas)

    return measure


def test_a_warm_start_is_as_good_as_a_full_retraining(days, yesterday, warm, liking):
    full = fitted(days.today, CONFIG)
    assert liking(warm.artifact) > liking(full.artifact) - 0.01
    assert liking(warm.artifact) > liking(yesterday.artifact) + 0.01
    assert len(warm.record.stage("hold-out")) == len(warm.record.stage("refit")) == CONFIG.warm_epochs
    verify(warm.artifact)


def test_new_users_and_posts_are_ranked_as_well_as_known_ones(days, yesterday, warm, liking):
    for new in ({"users": days.new_users}, {"posts": days.new_posts}):
        assert liking(warm.artifact, **new) > liking(yesterday.artifact, **new) + 0.1
        assert liking(warm.artifact, **new) > liking(warm.artifact) - 0.05


def test_the_record_has_the_parent_and_its_metrics_on_unseen_pairs(warm, yesterday):
    assert warm.record.parent == yesterday.record.version
    metrics, qualities = warm.artifact.manifest.metrics, warm.record.qualities
    assert list(qualities) == ["NeuCF", "its parent", "popularity", "heuristic"]
    assert metrics["parent_ndcg@10"] == qualities["its parent"]["ndcg@10"]
    hyperparameters = warm.artifact.manifest.hyperparameters
    assert hyperparameters == {
        **yesterday.artifact.manifest.hyperparameters,
        "epochs": CONFIG.warm_epochs,
        "kept_share": hyperparameters["kept_share"],  # each fit chooses its own
    }
    assert 0 <= hyperparameters["kept_share"] <= 1
    assert not warm.record.stage("factorisation")
    rates = [epoch.learning_rate for epoch in warm.record.stage("refit")]
    assert rates[-1] < 0.2 * CONFIG.learning_rate < rates[0]


def test_only_pairs_that_the_parent_has_not_seen_are_held_out(days, earlier):
    seen = days.yesterday.pairs
    keys = days.today.pair_keys(seen.users, seen.posts)
    holdout = FitHoldOut.unseen(days.today, CONFIG, earlier.seen)
    assert holdout is not None
    held_out = days.today.pair_keys(holdout.held_out.users, holdout.held_out.candidates[:, 0])
    assert len(held_out) > 150
    assert not np.isin(held_out, keys).any()
    training = collect(holdout.training.chunks(), len(days.today.user_ids))
    kept = days.today.pair_keys(training.users, training.posts)
    assert not np.isin(held_out, kept).any()
    assert len(kept) + len(held_out) == len(days.today.pairs)


def test_with_few_new_pairs_there_are_no_hold_out_and_no_metrics(days, earlier):
    today = days.today
    missing = np.zeros(len(today.pairs), np.bool_)
    missing[
        np.flatnonzero(~earlier.seen.contains(today, today.pairs.of_users(0, len(today.user_ids))))[50:]
    ] = True
    quiet = fitted(without(today, missing), CONFIG, earlier)
    assert quiet.artifact.manifest.metrics == {}
    assert quiet.record.qualities == {}
    assert quiet.record.chosen_epoch == len(quiet.record.stage("refit")) == CONFIG.warm_epochs
    assert not quiet.record.stage("hold-out")
    verify(quiet.artifact)


def test_seen_pairs_are_matched_by_user_and_post_ids():
    earlier = dataset([(10, 100, 1.0), (10, 300, 2.0), (30, 200, 3.0), (40, 100, 1.0)])
    seen = SeenPairs(earlier.user_ids, earlier.posts.ids, earlier.pairs.offsets, earlier.pairs.posts)
    later = dataset(
        [(10, 100, 1.0), (10, 200, 9.0), (20, 100, 9.0), (30, 200, 4.0), (50, 100, 9.0), (50, 700, 9.0)],
        users=5,
        posts=7,
    )
    rows = later.pairs.of_users(0, 5)
    assert seen.contains(later, rows).tolist() == [True, False, False, True, False, False]
    some = later.pairs.of_users(2, 5)
    assert seen.contains(later, some).tolist() == [True, False, False]
    assert not len(seen.contains(later, later.pairs.of_users(0, 0)))
    fewer = replace(later, user_ids=np.array([11, 20, 31, 40, 50]))  # other people
    assert not seen.contains(fewer, rows).any()
    assert not exclude_none(rows).any()


def test_a_warm_start_state_round_trips(yesterday, tmp_path):
    path = tmp_path / "network.npz"
    yesterday.warm_start_state.write(path)
    again = WarmStartState.read(path)
    assert again.version == yesterday.record.version
    written, read = yesterday.warm_start_state.factorisation, again.factorisation
    assert read is not None
    assert read.settings == written.settings == AlsSettings(10.0, 20.0)
    assert torch.equal(read.users, written.users)
    assert torch.equal(read.posts, written.posts)
    assert again.vocabulary.to_npz() == yesterday.artifact.vocabulary.to_npz()
    before, after = yesterday.warm_start_state.start, again.start
    assert torch.equal(before.history, after.history)
    assert before.network.shape == after.network.shape
    state = after.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in before.network.state_dict().items())


def test_without_a_factorisation_the_warm_start_state_has_no_factors(days, tmp_path):
    bare = fitted(days.yesterday, replace(CONFIG, factorisation="none", max_epochs=1))
    bare.warm_start_state.write(tmp_path / "network.npz")
    again = WarmStartState.read(tmp_path / "network.npz")
    assert again.factorisation is None
    data = training_set(days.today, days.today.pairs)
    _, factorisation = replace(parent(bare, days.yesterday), state=again).initialization_for(
        data, CONFIG, SINGLE_PROCESS
    )
    assert factorisation is None


def damaged(arrays):
    arrays["history_rows"] = arrays["history_rows"][1:]


def of_another_type(arrays):
    arrays["user_rows"] = arrays["user_rows"].astype(np.float64)


def without_a_layer(arrays):
    del arrays["layer.bias"]


def diverged(arrays):
    arrays["post_rows"][3, 2] = np.nan


def of_fewer_users(arrays):
    arrays["user_ids"] = arrays["user_ids"][1:]


def of_other_factors(arrays):
    arrays["post_factors"] = arrays["post_factors"][:, 1:]


def without_some_factors(arrays):
    del arrays["user_factors"]


def of_endless_factors(arrays):
    arrays["user_factors"][1, 1] = np.inf


@pytest.mark.parametrize(
    "change",
    [
        *(damaged, of_another_type, without_a_layer, diverged, of_fewer_users),
        *(of_other_factors, without_some_factors, of_endless_factors),
    ],
)
def test_a_malformed_warm_start_file_is_refused(yesterday, tmp_path, change):
    path = tmp_path / "network.npz"
    yesterday.warm_start_state.write(path)
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)
    with pytest.raises(InvalidInput, match=r"network\.npz: cannot be started from: "):
        WarmStartState.read(path)


def test_a_flipped_bit_is_detected(yesterday, tmp_path):
    path = tmp_path / "network.npz"
    yesterday.warm_start_state.write(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="cannot be started from"):
        WarmStartState.read(path)
    path.write_bytes(content[:1000])
    with pytest.raises(InvalidInput, match="cannot be started from"):
        WarmStartState.read(path)


def test_other_widths_are_refused_by_name(days, earlier):
    with pytest.raises(
        InvalidOption, match=r"--warm-start: .* has factors=8, this fit factors=16: give both the same"
    ):
        fitted(days.today, replace(CONFIG, factors=16), earlier)
    with pytest.raises(InvalidOption, match=r"hidden=\(16, 8\), this fit hidden=\(8,\)"):
        fitted(days.today, replace(CONFIG, hidden=(8,)), earlier)
    bare = days.today.without_embeddings()
    with pytest.raises(
        WidthMismatch, match=r"takes image embeddings that are 48 wide, those of the data are 0"
    ):
        fitted(bare, CONFIG, earlier)


def test_known_users_and_posts_keep_their_rows_plus_the_change_of_the_factorisation(days, earlier):
    data = training_set(days.today, days.today.pairs)
    (start, now), theirs = (
        earlier.initialization_for(data, CONFIG, SINGLE_PROCESS),
        earlier.state.start,
    )
    before = earlier.state.factorisation
    known, gmf = earlier.state.vocabulary, slice(CONFIG.factors)
    user, post = 1 + len(known.user_ids) // 2, 1 + len(known.post_ids) // 2
    now_user = 1 + int(np.flatnonzero(data.vocabulary.user_ids == known.user_ids[user - 1])[0])
    now_post = 1 + int(np.flatnonzero(data.vocabulary.post_ids == known.post_ids[post - 1])[0])
    for mine, parents, changed in (
        (
            start.network.user_table[now_user],
            theirs.network.user_table[user],
            now.users[now_user] - before.users[user],
        ),
        (
            start.network.post_table[now_post],
            theirs.network.post_table[post],
            now.posts[now_post] - before.posts[post],
        ),
    ):
        assert torch.equal(mine[CONFIG.factors :], parents[CONFIG.factors :])
        assert 0.0 < torch.linalg.norm(changed) < 0.5 * torch.linalg.norm(parents[gmf])
        torch.testing.assert_close(mine[gmf], parents[gmf] + LOGITS**0.5 * changed)
    assert torch.equal(start.history[now_post], theirs.history[post])
    assert torch.equal(start.network.post_table[0], theirs.network.post_table[0])


def test_new_users_and_posts_have_their_factors_and_otherwise_default_rows(days, earlier):
    data = training_set(days.today, days.today.pairs)
    (start, now), theirs = (
        earlier.initialization_for(data, CONFIG, SINGLE_PROCESS),
        earlier.state.start,
    )
    users, posts = (
        1 + np.flatnonzero(~np.isin(ids, known))
        for ids, known in (
            (data.vocabulary.user_ids, earlier.state.vocabulary.user_ids),
            (data.vocabulary.post_ids, earlier.state.vocabulary.post_ids),
        )
    )
    posts = posts[data.counts[posts] > 0]
    assert len(users) > 5
    assert len(posts) > 5
    gmf, rest = slice(CONFIG.factors), slice(CONFIG.factors, None)
    torch.testing.assert_close(start.network.user_table[users, gmf], LOGITS**0.5 * now.users[users])
    torch.testing.assert_close(start.network.post_table[posts, gmf], LOGITS**0.5 * now.posts[posts])
    assert now.users[users].any(dim=1).all()
    assert now.posts[posts].any(dim=1).all()
    assert not start.history[posts].any()
    assert torch.equal(
        start.network.post_table[posts, rest], theirs.network.post_table[0, rest].expand(len(posts), -1)
    )


def test_each_rank_initializes_its_own_user_rows(days, earlier):
    data = training_set(days.today, days.today.pairs)
    recipe = replace(CONFIG, factorisation="none")  # no communication with the other process
    whole, _ = earlier.initialization_for(data, recipe, SINGLE_PROCESS)
    for rank in range(2):
        mine, _ = earlier.initialization_for(data, recipe, ProcessGroup(rank, 2))
        assert torch.equal(mine.network.user_table, whole.network.user_table[rank::2])
        assert torch.equal(mine.network.post_table, whole.network.post_table)


def test_a_warm_recipe_has_few_epochs_and_a_bounded_rate():
    recipe = warm_recipe(CONFIG)
    assert (recipe.max_epochs, recipe.patience) == (CONFIG.warm_epochs, CONFIG.warm_epochs)
    assert CONFIG.learning_rate < recipe.learning_rate <= 0.1
    assert recipe.als_iterations < CONFIG.als_iterations
    assert warm_recipe(replace(CONFIG, learning_rate=0.3)).learning_rate == 0.3


def test_warm_start_files_replace_those_copied_before(tmp_path):
    data, folder = tmp_path / "data", tmp_path / "parent"
    data.mkdir()
    for name in ("user_ids.npy", "post_ids.npy", "pair_offsets.npy", "pair_posts.npy", "post_image.npy"):
        (data / name).write_bytes(name.encode())
    network = tmp_path / "network.npz"
    with pytest.raises(InvalidInput, match=r"--warm-start: there is no .*network\.npz: name the --run-dir"):
        copy_warm_start_files(network, data, folder)
    with pytest.raises(InvalidInput, match=r"--warm-start: there is no .*network\.npz: name the --run-dir"):
        copy_warm_start_files(tmp_path / ("x" * 300) / "network.npz", data, folder)
    for content in (b"one", b"two"):
        network.unlink(missing_ok=True)
        network.write_bytes(content)
        copy_warm_start_files(network, data, folder)
        assert (folder / "network.npz").read_bytes() == content
    assert not (folder / "post_image.npy").exists()
    with pytest.raises(InvalidInput, match="cannot be"):
        ParentVersion.read(folder)
    with pytest.raises(InvalidInput, match="cannot be read"):
        SeenPairs.open(folder)
