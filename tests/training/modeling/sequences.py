"""Training sets of users whose events have an order, for the tests of the sequence model."""

import numpy as np
import torch

from animora_artifact import Vocabulary
from animora_training.modeling.network import NetworkShape
from animora_training.modeling.sequence_model import SequenceConfig
from animora_training.modeling.training_set import TrainingSet

HOUR = 3_600.0
CONFIG = SequenceConfig(
    length=4,
    taste=8,
    sums=2,
    heads=1,
    windows_per_step=3,
    negatives=100,
    epochs=3,
    learning_rate=0.01,
    seed=5,
)


def ordered_set(histories: list[list[int]], posts: int) -> TrainingSet:
    """Users with the post rows of their events; posts have images of width 3."""
    lengths = np.array([0, *map(len, histories)])
    rows = torch.tensor([row for history in histories for row in history], dtype=torch.int32)
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(posts + 1, 3, generator=generator).half()
    image[0] = 0
    return TrainingSet(
        vocabulary=Vocabulary(np.arange(len(histories)), np.arange(posts)),
        offsets=torch.from_numpy(np.concatenate(([0], lengths.cumsum()))),
        posts=rows,
        negatives=torch.arange(1, posts + 1),
        counts=torch.bincount(rows.long(), minlength=posts + 1),
        image=image,
        caption=torch.zeros(posts + 1, 0, dtype=torch.float16),
    )


def hourly(data: TrainingSet) -> torch.Tensor:
    """Times of the events of a training set: a user's are an hour apart."""
    return torch.cat([HOUR * torch.arange(count, dtype=torch.float64) for count in data.offsets.diff()])


def shape_of(data: TrainingSet) -> NetworkShape:
    """The shape of a network for the training set."""
    return NetworkShape(data.users, len(data.counts), 4, 4, (4,), 5, 3, 0)


def random_histories(users: int, posts: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Histories of different lengths, some empty."""
    rng = np.random.default_rng(seed)
    return [(1 + rng.permutation(posts)[: rng.integers(longest + 1)]).tolist() for _ in range(users)]
