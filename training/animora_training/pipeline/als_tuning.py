"""Tunes alpha and L2 of the alternating least squares (ALS) that NeuCF starts from, on the hold-out."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from animora_training.errors import NotFinite
from animora_training.evaluation.recommender import Factors
from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import AlsSettings, factorize
from animora_training.modeling.training_set import TrainingSet
from animora_training.pipeline.holdout import FitHoldOut

# Start of the search: alpha, and L2 as a multiple of alpha times the mean number of positives a user has. On
# several data sets the best values are near these.
DEFAULT_SHARE, DEFAULT_ALPHA = 0.06, 10.0
STEPS = (2, 1)
MAX_DISTANCE = 16
# A network trained from the factorisation ranks best with a slightly larger L2 than is best for the
# factorisation alone (docs/notes/accuracy.md): the largest of these factors that lowers NDCG@10 by at most
# this.
REGULARISATION_FACTORS = (1.2, 1.1, 1.05)
MAX_NDCG_LOSS = 0.005

GridPoint = tuple[int, ...]
"""Exponents of √2, relative to the start of the search."""


def tune_als(
    holdout: FitHoldOut,
    data: TrainingSet,
    config: FitConfig,
    threads: int = 0,
    *,
    factors: Sequence[float] = REGULARISATION_FACTORS,
    max_loss: float = MAX_NDCG_LOSS,
) -> AlsSettings:
    """Searches the ALS settings with the best NDCG@10 of the selection users.

    Args:
        holdout: Evaluates a factorisation.
        data: Training pairs, without the held-out ones.
        config: Its als_alpha and als_regularisation are used as they are unless 0.
        threads: See factorize.
        factors: A tuned L2 is multiplied by the first of these, largest first, that lowers NDCG@10 by at most
            `max_loss`.
        max_loss: NDCG@10 that a larger L2 may cost.
    """

    @cache
    def quality(settings: AlsSettings) -> float:
        factorisation = factorize(data, config, settings, threads=threads)
        users = np.zeros((len(holdout.dataset.user_ids), config.factors), np.float32)
        posts = np.zeros((len(holdout.dataset.posts.ids), config.factors), np.float32)
        users[np.isin(holdout.dataset.user_ids, data.vocabulary.user_ids)] = factorisation.users[1:]
        posts[np.isin(holdout.dataset.posts.ids, data.vocabulary.post_ids)] = factorisation.posts[1:]
        try:
            return holdout.choice(Factors(users, posts)).ndcg
        except NotFinite:  # the L2 is too small for float32
            return -math.inf

    search = _Search(config, len(data.posts) / (data.users - 1))
    best = search.at(
        hill_climb(lambda point: quality(search.at(point)), search.start) if search.start else ()
    )
    if config.als_regularisation:
        return best
    enough = quality(best) - max_loss
    more = (replace(best, regularisation=factor * best.regularisation) for factor in factors)
    return next((settings for settings in more if quality(settings) >= enough), best)


def default_als(data: TrainingSet, config: FitConfig) -> AlsSettings:
    """Settings that do well on most data sets, without a search."""
    search = _Search(config, len(data.posts) / (data.users - 1))
    return search.at(search.start)


def hill_climb(quality: Callable[[GridPoint], float], start: GridPoint) -> GridPoint:
    """Maximises a unimodal function on a grid by pattern search (Hooke and Jeeves 1961).

    Moves along one axis at a time, first in steps of 2, then of 1, at most MAX_DISTANCE from the start on
    each axis. Of equal points the first one found wins.
    """
    known = {start: quality(start)}
    best = start
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for axis in range(len(start)):
                for direction in (step, -step):
                    while abs(best[axis] + direction - start[axis]) <= MAX_DISTANCE:
                        at = (*best[:axis], best[axis] + direction, *best[axis + 1 :])
                        known[at] = known[at] if at in known else quality(at)
                        if not known[at] > known[best]:
                            break
                        best, improved = at, True
    return best


@dataclass(frozen=True, slots=True)
class _Search:
    """Maps grid points to ALS settings. The axes are those of L2 and alpha that are to be tuned.

    Attributes:
        config: The config; a value of 0 is tuned.
        likes: Mean number of positives a user has.
    """

    config: FitConfig
    likes: float

    @property
    def start(self) -> GridPoint:
        """The default settings; empty if nothing is tuned."""
        return (0,) * [self.config.als_regularisation, self.config.als_alpha].count(0.0)

    def at(self, point: GridPoint) -> AlsSettings:
        """Settings at a grid point."""
        factors = [math.sqrt(2.0) ** exponent for exponent in point]
        alpha = self.config.als_alpha or DEFAULT_ALPHA * factors[-1]
        usual = DEFAULT_SHARE * alpha * self.likes
        return AlsSettings(alpha, self.config.als_regularisation or usual * factors[0])
