from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from animora_training.errors import InvalidInput
from animora_training.modeling.config import FitConfig
from animora_training.modeling.process_group import ProcessGroup
from animora_training.pipeline.checkpoint import Checkpoints
from animora_training.pipeline.fit import FitContext, fit
from animora_training.pipeline.refit import recipe_of, refit
from tests.support.datasets import as_dataset, tiny_feed

CONFIG = FitConfig(max_epochs=1, factors=4, hidden=(8, 4), seed=3)


@pytest.fixture(scope="module")
def data():
    return as_dataset(tiny_feed())


@pytest.fixture(scope="module")
def version(data):
    context = FitContext(
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        device=torch.device("cpu"),
        group=ProcessGroup(),
        checkpoints=Checkpoints(None, ""),
        on_epoch=lambda epoch, epochs: None,
    )
    return fit(data, CONFIG, context).artifact


def changed(version, hyperparameters):
    return replace(version, manifest=version.manifest.model_copy(update={"hyperparameters": hyperparameters}))


def test_a_version_can_be_refitted_on_a_part_of_its_data(data, version):
    known = data.pairs.posts % 3 > 0
    part = replace(data, pairs=data.pairs.take(known), events=data.events.take(data.events.posts % 3 > 0))
    seen_stages = []
    again = refit(part, version, lambda epoch, epochs: seen_stages.append((epoch.stage, epochs)))
    liked = data.posts.ids[np.unique(part.pairs.posts)]
    unliked = data.posts.ids[np.bincount(part.pairs.posts, minlength=len(data.posts.ids)) == 0]
    assert set(liked) <= set(again.vocabulary.post_ids) <= set(liked) | set(unliked)
    assert again.manifest.dimensions.factors == 4
    assert ("hold-out", 1) in seen_stages


def test_a_refit_has_the_manifests_settings_without_those_that_the_fit_chose(version):
    kept = version.manifest.hyperparameters
    assert kept["als_alpha"] > 0
    assert kept["als_regularisation"] > 0
    assert recipe_of(version) == CONFIG
    assert recipe_of(changed(version, {**kept, "dropout": 0.25})) == replace(CONFIG, dropout=0.25)


def test_another_trainers_recipe_is_refused(version):
    kept = version.manifest.hyperparameters
    without = {name: value for name, value in kept.items() if name != "factors"}
    with pytest.raises(InvalidInput, match="does not say its factors"):
        recipe_of(changed(version, without))
    with pytest.raises(InvalidInput, match=version.manifest.version):
        recipe_of(changed(version, {**kept, "loss": "hinge"}))
