"""Calibration of like probabilities, and Platt scaling."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from animora_training.data.dataset import BoolArray, DoubleArray, IntArray
from animora_training.data.split import HeldOut
from animora_training.evaluation.metrics import Scores, require_finite

BINS = 15
# Bounds of the slope; a slope that is not positive would reverse the order.
SLOPES = (0.05, 20.0)


@dataclass(frozen=True, slots=True)
class LikeSample:
    """A weighted sample of all pairs of some users with the live posts.

    Attributes:
        scores: floating (n), log odds.
        liked: bool (n), whether the user likes the post.
        weights: float64 (n), number of pairs of the whole catalog that each pair represents.
    """

    scores: Scores
    liked: BoolArray
    weights: DoubleArray


@dataclass(frozen=True, slots=True)
class LogitScaling:
    """Platt scaling: slope · log odds + offset. The slope is positive, so the order of posts stays."""

    slope: float = 1.0
    offset: float = 0.0

    def of(self, scores: Scores) -> Scores:
        """Scales scores (...)."""
        return self.slope * scores + self.offset


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration metrics of a weighted sample.

    Attributes:
        base_rate: Share of the pairs that are liked.
        mean_probability: Mean probability of all pairs.
        error: Expected calibration error: mean over bins of |mean probability - share liked|.
        brier: Brier score: mean squared difference between probability and outcome.
        log_loss: Mean negative log-likelihood, in nats.
        base_log_loss: Log loss of predicting the base rate for every pair.
        predicted: float64 (b), mean probability of each bin.
        observed: float64 (b), share liked of each bin.
        mass: float64 (b), number of pairs that each bin represents.
    """

    base_rate: float
    mean_probability: float
    error: float
    brier: float
    log_loss: float
    base_log_loss: float
    predicted: DoubleArray
    observed: DoubleArray
    mass: DoubleArray


def like_sample(
    scores: Scores, held_out: HeldOut, liked: IntArray | DoubleArray, untouched: IntArray | DoubleArray
) -> LikeSample:
    """Weights held-out posts and their sampled negatives to represent the whole catalog.

    A user's held-out post represents all likes of the user, and the uniformly sampled negatives all posts
    without an interaction. So the base rate is that of the catalog, as in a log loss over all pairs.

    Args:
        scores: floating (m, 1 + k), log odds of the candidates.
        held_out: Candidates; column 0 is liked.
        liked: (m), number of likes that each row represents.
        untouched: (m), number of posts that the negatives of each row represent.

    Raises:
        NotFinite: The log odds of a candidate are not finite.
    """
    require_finite(scores[held_out.present])
    present = held_out.present
    weights = np.empty(present.shape)
    weights[:, 0] = liked
    weights[:, 1:] = (untouched / np.maximum(present[:, 1:].sum(axis=1), 1))[:, None]
    held = np.zeros(present.shape, np.bool_)
    held[:, 0] = True
    return LikeSample(scores[present], held[present], weights[present])


def fit_scaling(sample: LikeSample) -> LogitScaling:
    """Fits the scaling with the lowest log loss (Platt 1999); the identity if all or no pairs are liked."""
    logits, liked = sample.scores.astype(np.float64), sample.liked.astype(np.float64)
    total = float(sample.weights.sum())
    if not total or liked.all() or not liked.any():
        return LogitScaling()
    weights = sample.weights / total

    def loss(parameters: DoubleArray) -> tuple[float, DoubleArray]:
        slope, offset = parameters
        scaled = slope * logits + offset
        wrong = weights * (expit(scaled) - liked)
        losses = np.logaddexp(0.0, np.where(liked > 0, -scaled, scaled))
        return float(weights @ losses), np.array([wrong @ logits, wrong.sum()])

    found = minimize(loss, (1.0, 0.0), jac=True, method="L-BFGS-B", bounds=(SLOPES, (None, None)))
    slope, offset = found.x.tolist()
    return LogitScaling(slope, offset)


def calibration(sample: LikeSample, bins: int = BINS) -> Calibration:
    """Computes calibration metrics, in bins of equal weight.

    Expected calibration error (Naeini et al., AAAI 2015) with bins of equal mass (Nixon et al. 2019): most
    probabilities are small, so with bins of equal width all but one would be nearly empty.
    """
    order = np.argsort(sample.scores, kind="stable")
    logits = sample.scores[order].astype(np.float64)
    weights, liked = sample.weights[order], sample.liked[order].astype(np.float64)
    probabilities = expit(logits)
    total = float(weights.sum())
    if not total:
        nothing = np.zeros(0)
        return Calibration(*(math.nan,) * 6, nothing, nothing, nothing)
    middles = (np.cumsum(weights) - weights / 2) / total
    bin_of = np.minimum((middles * bins).astype(np.int64), bins - 1)
    mass = np.bincount(bin_of, weights, minlength=bins)
    filled = mass > 0
    predicted = np.bincount(bin_of, weights * probabilities, minlength=bins)[filled] / mass[filled]
    observed = np.bincount(bin_of, weights * liked, minlength=bins)[filled] / mass[filled]
    base_rate = float(weights @ liked) / total
    # -log(sigmoid(x)) as log(1 + exp(-x)): exact even where the sigmoid rounds to 0 or 1.
    losses = np.logaddexp(0.0, np.where(liked > 0, -logits, logits))
    return Calibration(
        base_rate=base_rate,
        mean_probability=float(weights @ probabilities) / total,
        error=float(mass[filled] @ np.abs(predicted - observed)) / total,
        brier=float(weights @ (probabilities - liked) ** 2) / total,
        log_loss=float(weights @ losses) / total,
        base_log_loss=_entropy(base_rate),
        predicted=predicted,
        observed=observed,
        mass=mass[filled].astype(np.float64),
    )


def _entropy(share: float) -> float:
    return -sum(part * math.log(part) for part in (share, 1.0 - share) if part > 0)
