from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from animora_artifact import ArtifactRejected
from animora_artifact.verification import verify
from animora_training.data.dataset import ABSENT
from animora_training.data.split import HeldOut
from animora_training.errors import NothingToLearn, WidthMismatch
from animora_training.evaluation.network_ranking import (
    PostScorer,
    Quality,
    impute_with_medians,
    rank_held_out,
    rank_with_artifact,
)
from animora_training.modeling.network import NetworkShape, NeuCF
from animora_training.modeling.training_set import training_set
from animora_training.pipeline.export import FoldedNeuCF, VersionOrigin, export
from tests.support.datasets import dataset
from tests.support.networks import randomised

EVENTS = [(10, 100, 1.0), (10, 200, 2.0), (20, 300, 3.0), (30, 400, 4.0)]


@pytest.fixture(scope="module")
def data():
    return dataset(EVENTS)


@pytest.fixture(scope="module")
def rows(data):
    return training_set(data, data.pairs)


@pytest.fixture(scope="module")
def network(rows):
    shape = NetworkShape(
        users=rows.users,
        posts=len(rows.counts),
        factors=8,
        mlp_embedding=32,
        hidden=(32, 16, 8),
        feature_width=32,
        image=rows.image.shape[1],
        caption=rows.caption.shape[1],
        image_scale=1.0,
        caption_scale=1.0,
    )
    return randomised(NeuCF(shape))


@pytest.fixture(scope="module")
def artifact(data, rows, network):
    return export(network, rows, data.pairs, VersionOrigin(datetime(2026, 1, 1, tzinfo=UTC), {}, {}))


def held_out(users, candidates):
    return HeldOut(np.array(users), np.array(candidates), np.zeros(len(users)))


def test_every_post_is_scored_with_its_row_and_embeddings(data, rows, network):
    scorer = PostScorer(FoldedNeuCF(network).eval(), rows.vocabulary, data)
    scores = scorer.grid(np.array([0, 2]), np.array([[0, 5, 3], [4, 1, 0]]))
    posts = data.posts
    for row, (user_row, wanted) in enumerate(((1, (1, 0, 4)), (3, (0, 2, 1)))):
        for column, post_row in enumerate(wanted):
            index = ((0, 5, 3), (4, 1, 0))[row][column]
            eager = network(
                torch.tensor([user_row]),
                torch.tensor([post_row]),
                torch.from_numpy(posts.image[[index]].astype(np.float32)),
                torch.from_numpy(posts.caption[[index]].astype(np.float32)),
            )
            assert scores[row, column] == pytest.approx(float(eager.detach()), abs=1e-4)
    users = np.array([3, 1])
    everything = np.broadcast_to(np.arange(len(posts.ids)), (2, len(posts.ids))).copy()
    assert scorer.catalog(users) == pytest.approx(scorer.grid(users, everything), abs=1e-5)


def test_absent_candidates_and_ties_are_ranked_as_by_the_server(data):
    scores = np.array([[0.5, 0.5, 0.9, 0.1], [0.5, 0.5, 0.2, 0.1]], np.float32)
    held = held_out([0, 1], [[2, 3, ABSENT, 0], [3, 2, 1, 0]])
    # Post 400 is newer than 300: in the first row it goes before the held-out post, in the second it is it.
    assert rank_held_out(data.posts, scores, held).tolist() == [1, 0]


def test_users_outside_the_vocabulary_are_skipped_and_counted(artifact, data):
    ranks = rank_with_artifact(artifact, data, held_out([3, 0, 1], [[0, 1], [2, 3], [3, 0]]))
    assert ranks.user_ids.tolist() == [10, 20]
    assert ranks.skipped == 1
    assert len(ranks.ranks) == 2
    assert ranks.quality == Quality.of(ranks.ranks)


def test_a_vocabulary_without_any_user_is_an_error(artifact, data):
    with pytest.raises(NothingToLearn, match="knows none of the 1 users"):
        rank_with_artifact(artifact, data, held_out([3], [[0, 1]]))


def test_embeddings_of_another_width_are_refused(artifact, data):
    wide = replace(data, posts=replace(data.posts, image=np.ones((6, 7), np.float32)))
    with pytest.raises(WidthMismatch, match="image embeddings are 7 wide, the model takes 3"):
        rank_with_artifact(artifact, wide, held_out([0], [[0, 1]]))


def test_a_version_that_differs_from_its_golden_rows_is_refused(artifact):
    verify(artifact)
    wrong = replace(artifact.golden, probabilities=artifact.golden.probabilities + np.float32(1e-3))
    with pytest.raises(ArtifactRejected, match=r"golden: .* off its recorded probabilities"):
        verify(replace(artifact, golden=wrong))


def test_a_post_without_features_gets_the_median_of_its_users_other_scores():
    scores = np.array([[1.0, 5.0, 9.0, 0.0], [1.0, 2.0, 3.0, 4.0], [7.0, 8.0, 9.0, 6.0]], np.float32)
    informed = np.array([[True, True, True, False], [True] * 4, [False] * 4])
    filled = impute_with_medians(scores.copy(), informed)
    assert filled.tolist() == [[1.0, 5.0, 9.0, 5.0], [1.0, 2.0, 3.0, 4.0], [7.0, 8.0, 9.0, 6.0]]
