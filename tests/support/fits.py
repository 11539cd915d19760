"""Configurations of fits that end within seconds."""

from dataclasses import replace
from typing import Any

from animora_training.modeling.config import FitConfig

QUICK = FitConfig(
    factors=8,
    mlp_embedding=16,
    hidden=(16, 8),
    feature_width=16,
    als_iterations=5,
    als_alpha=10.0,
    als_regularisation=20.0,
    users_per_step=32,
    max_epochs=8,
)


def quick_config(**changes: Any) -> FitConfig:
    """A small network that learns a tiny feed in a few epochs, with some hyper-parameters changed."""
    return replace(QUICK, **changes)
