"""Early stopping: which epoch of the hold-out stage is chosen, and when that stage ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from animora_training.data.dataset import Dataset
from animora_training.modeling.config import FitConfig

# Where posts have embeddings, which a factorisation ignores, the trained network may rank worse than its
# factorisation by this much (NDCG@10 on the hold-out) before the factorisation is published instead.
INITIALIZATION_MARGIN = 0.01


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """The choice among the epochs, by the NDCG@10 of the initialization and of each epoch so far.

    Attributes:
        max_epochs: Number of epochs after which training ends in any case.
        patience: Number of epochs without a better one after which training ends.
        margin: NDCG@10 by which the trained network may rank worse than its initialization and still be
            chosen.
    """

    max_epochs: int
    patience: int
    margin: float = 0.0

    @classmethod
    def of(cls, config: FitConfig, dataset: Dataset) -> "EarlyStopping":
        """With a margin if posts have embeddings."""
        embedded = dataset.posts.image.size + dataset.posts.caption.size > 0
        return cls(config.max_epochs, config.patience, INITIALIZATION_MARGIN if embedded else 0.0)

    def best_epoch(self, ndcg: Sequence[float]) -> int:
        """The epoch with the best NDCG@10; 0, the initialization, if all others are worse."""
        start, *trained = ndcg
        known = [-math.inf if math.isnan(value) else value for value in trained]  # argmax would choose NaN
        if not known or not max(known) >= start - self.margin:
            return 0
        return 1 + int(np.argmax(known))

    def should_stop(self, ndcg: Sequence[float]) -> bool:
        """Whether training ends: after `max_epochs`, or `patience` epochs after the best one."""
        epoch = len(ndcg) - 1
        return epoch >= self.max_epochs or epoch - self.best_epoch(ndcg) >= self.patience
