"""How strongly the factorisation that NeuCF starts from is held back: chosen on the hold-out."""

import math
from collections.abc import Callable

import numpy as np

from animora_training.fitting.holdout import HoldOut
from animora_training.judging.recommender import Factors
from animora_training.learning.config import FitConfig
from animora_training.learning.factorisation import factorize
from animora_training.learning.training_set import TrainingSet

# Times a positive's weight and the mean number of a user's positives: near the best on several data sets.
USUAL = 0.06
STEPS = (2.0, math.sqrt(2.0))
MAX_STEPS = 6


def tuned_regularisation(holdout: HoldOut, data: TrainingSet, config: FitConfig) -> float:
    """The L2 with which the factorisation ranks the held-out posts best for the users who choose.

    Args:
        holdout: Whom to rank for.
        data: The hold-out's training pairs.
        config: Of the factorisation.
    """

    def quality(regularisation: float) -> float:
        factors = factorize(data, config, regularisation)
        users = np.zeros((len(holdout.dataset.user_ids), config.factors), np.float32)
        posts = np.zeros((len(holdout.dataset.posts.ids), config.factors), np.float32)
        users[np.isin(holdout.dataset.user_ids, data.vocabulary.user_ids)] = factors.users[1:]
        posts[np.isin(holdout.dataset.posts.ids, data.vocabulary.post_ids)] = factors.posts[1:]
        return holdout.choice(Factors(users, posts)).ndcg

    return climb(quality, usual_regularisation(data, config))


def usual_regularisation(data: TrainingSet, config: FitConfig) -> float:
    """An L2 that does well on most data."""
    return USUAL * config.als_alpha * len(data.posts) / (data.users - 1)


def climb(quality: Callable[[float], float], start: float) -> float:
    """Where a function of a positive number is highest, in ever smaller factors from a start.

    For functions with one peak; of equals the first.
    """
    known = {start: quality(start)}
    best = start
    for factor in STEPS:
        for direction in (factor, 1 / factor):
            for _ in range(MAX_STEPS):
                at = best * direction
                if at not in known:
                    known[at] = quality(at)
                if known[at] <= known[best]:
                    break
                best = at
    return best
