from dataclasses import asdict

import pytest

from animora_training.errors import InvalidOption
from animora_training.modeling.config import FitConfig


def test_options_override_the_defaults():
    config = FitConfig.from_choices(
        ["factors=16", "hidden=64,32", "l2=0", "loss=bpr", "embeddings=false"], seed=3
    )
    assert config == FitConfig(factors=16, hidden=(64, 32), l2=0.0, loss="bpr", embeddings=False, seed=3)


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("factors", "'factors' is not NAME=VALUE"),
        ("seed=4", "'seed=4' is not NAME=VALUE"),
        ("factor=4", "factors"),
        ("factors=many", "factors"),
        ("factors=0", "factors"),
        ("hidden=", "hidden"),
        ("hidden=8,-1", "hidden"),
        ("learning_rate=1", "learning_rate"),
        ("learning_rate=nan", "learning_rate"),
        ("drop_rate=1", "drop_rate"),
        ("history_drop=1", "history_drop"),
        ("l2=-1", "l2"),
        ("warmup_epochs=inf", "warmup_epochs"),
        ("loss=hinge", "loss"),
        ("factorisation=svd", "factorisation"),
        ("als_alpha=-1", "als_alpha"),
        ("posts_per_step=0", "posts_per_step"),
        ("factors=1000000000000", "factors: must be at most 4096"),
        ("mlp_embedding=9223372036854775808", "mlp_embedding: must be at most"),
        ("feature_width=5000", "feature_width: must be at most"),
        ("hidden=8,1000000000000", "hidden: must name at least one layer, each 1 to 4096 wide"),
        ("holdout_negatives=2147483648", "holdout_negatives: must be at most 1000000"),
        ("als_iterations=1000000000000", "als_iterations: must be at most"),
    ],
)
def test_an_invalid_option_is_refused_by_name(choice, names):
    with pytest.raises(InvalidOption, match=names):
        FitConfig.from_choices([choice], seed=0)


def test_the_manifest_keeps_every_field():
    config = FitConfig(hidden=(32, 16, 8))
    assert config.hyperparameters() == {**asdict(config), "hidden": [32, 16, 8]}
