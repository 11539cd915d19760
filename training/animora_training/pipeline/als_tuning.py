"""How the factorisation that NeuCF starts from weighs likes and is held back: chosen on the hold-out."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from animora_training.errors import NotFinite
from animora_training.evaluation.recommender import Factors
from animora_training.modeling.config import FitConfig
from animora_training.modeling.factorisation import AlsSettings, factorize
from animora_training.modeling.training_set import TrainingSet
from animora_training.pipeline.holdout import FitHoldOut

# L2 in multiples of a positive's weight and the mean number of a user's positives. What is best lies near
# these on several data sets, and changes little with the weight.
USUAL_SHARE, USUAL_ALPHA = 0.06, 10.0
STEPS = (2, 1)
FURTHEST = 16
# Training does best from a factorisation with a larger L2 than is best for the factorisation alone, unless
# that costs it too much (docs/notes/accuracy.md): factors of the L2, and NDCG@10 on the hold-out.
HELD_BACK = (1.2, 1.1, 1.05)
AFFORDABLE = 0.005

Place = tuple[int, ...]
"""On a grid whose values lie a factor of √2 apart."""


def tuned_als(holdout: FitHoldOut, data: TrainingSet, config: FitConfig, threads: int = 0) -> AlsSettings:
    """The strength with which the factorisation ranks the held-out posts best for the users who choose.

    Where the L2 is tuned, that times the largest of HELD_BACK that costs no more than AFFORDABLE.

    Args:
        holdout: Whom to rank for.
        data: The hold-out's training pairs.
        config: Of the factorisation; what it gives of a strength is not tuned.
        threads: See factorize.
    """

    @cache
    def quality(strength: AlsSettings) -> float:
        factors = factorize(data, config, strength, threads=threads)
        users = np.zeros((len(holdout.dataset.user_ids), config.factors), np.float32)
        posts = np.zeros((len(holdout.dataset.posts.ids), config.factors), np.float32)
        users[np.isin(holdout.dataset.user_ids, data.vocabulary.user_ids)] = factors.users[1:]
        posts[np.isin(holdout.dataset.posts.ids, data.vocabulary.post_ids)] = factors.posts[1:]
        try:
            return holdout.choice(Factors(users, posts)).ndcg
        except NotFinite:  # too weak a regularisation for single precision
            return -math.inf

    search = _Search(config, len(data.posts) / (data.users - 1))
    best = search.at(climb(lambda place: quality(search.at(place)), search.start) if search.start else ())
    if config.als_regularisation:
        return best
    enough = quality(best) - AFFORDABLE
    more = (replace(best, regularisation=factor * best.regularisation) for factor in HELD_BACK)
    return next((strength for strength in more if quality(strength) >= enough), best)


def default_als(data: TrainingSet, config: FitConfig) -> AlsSettings:
    """One that does well on most data."""
    search = _Search(config, len(data.posts) / (data.users - 1))
    return search.at(search.start)


def climb(quality: Callable[[Place], float], start: Place) -> Place:
    """Where a function is highest: along one axis after the other, in ever smaller steps.

    For functions with one peak; of equals the first. Hooke and Jeeves (1961), on a grid, and not further than
    FURTHEST from the start.
    """
    known = {start: quality(start)}
    best = start
    for step in STEPS:
        improved = True
        while improved:
            improved = False
            for axis in range(len(start)):
                for direction in (step, -step):
                    while abs(best[axis] + direction - start[axis]) <= FURTHEST:
                        at = (*best[:axis], best[axis] + direction, *best[axis + 1 :])
                        known[at] = known[at] if at in known else quality(at)
                        if not known[at] > known[best]:
                            break
                        best, improved = at, True
    return best


@dataclass(frozen=True, slots=True)
class _Search:
    """Strengths as places around the usual one: of the L2 and the alpha, what the recipe leaves open.

    Attributes:
        config: The recipe.
        likes: The mean number of a user's positives.
    """

    config: FitConfig
    likes: float

    @property
    def start(self) -> Place:
        """Where to begin; empty where nothing is open."""
        return (0,) * [self.config.als_regularisation, self.config.als_alpha].count(0.0)

    def at(self, place: Place) -> AlsSettings:
        """The strength at a place."""
        factors = [math.sqrt(2.0) ** exponent for exponent in place]
        alpha = self.config.als_alpha or USUAL_ALPHA * factors[-1]
        usual = USUAL_SHARE * alpha * self.likes
        return AlsSettings(alpha, self.config.als_regularisation or usual * factors[0])
