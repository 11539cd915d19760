"""Losses of a step, from the logits of its positives and of its users with the sampled negatives."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, softplus


@dataclass(frozen=True, slots=True)
class StepLogits:
    """The logits of a step.

    Attributes:
        positive: floating (p), logits of the step's positives.
        segments: int64 (p), the user (index into b) of each positive.
        drawn: floating (b, m), logits of all users with all sampled posts.
        accidental_hits: bool (b, m), sampled posts that are positives of the user, and so no negatives.
        weight: Number of posts of the catalog that a sampled post represents.
        positive_weights: floating (p), number of the user's positives that each positive represents.
        noise: floating (p), uniform in [0, 1), for a random choice about each positive.
    """

    positive: Tensor
    segments: Tensor
    drawn: Tensor
    accidental_hits: Tensor
    weight: float
    positive_weights: Tensor
    noise: Tensor


def logistic(logits: StepLogits) -> Tensor:
    """Log loss over all pairs of the users with the catalog, estimated from the sampled posts, summed."""
    negatives = softplus(logits.drawn).masked_fill(logits.accidental_hits, 0.0)
    positives = softplus(-logits.positive) * logits.positive_weights
    return positives.sum() + logits.weight * negatives.sum()


def softmax(logits: StepLogits) -> Tensor:
    """Cross entropy of each positive against all posts that are no positives of its user, summed.

    Sampled softmax (Jean et al. 2015): the sum over the catalog is estimated from the sampled posts.
    """
    others = torch.logsumexp(logits.drawn.masked_fill(logits.accidental_hits, -torch.inf), dim=1)
    others = others + torch.log(torch.tensor(logits.weight))
    return (softplus(_rows(others, logits.segments) - logits.positive) * logits.positive_weights).sum()


def bpr(logits: StepLogits) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009): each positive against one sampled post, summed.

    A positive is skipped in this step if its sampled post is an accidental hit.
    """
    posts = logits.drawn.shape[1]
    columns = (logits.noise * posts).long().clamp(max=posts - 1)
    beside = _rows(logits.drawn.flatten(), logits.segments * posts + columns)
    refused = logits.accidental_hits[logits.segments, columns]
    return (softplus(beside - logits.positive).masked_fill(refused, 0.0) * logits.positive_weights).sum()


def _rows(values: Tensor, places: Tensor) -> Tensor:
    """Values (n) at indices int64 (p), with a deterministic gradient."""
    # The gradient of plain indexing is summed by several threads in any order.
    return embedding(places, values[:, None]).squeeze(1)


LOSSES: dict[str, Callable[[StepLogits], Tensor]] = {
    "logistic": logistic,
    "softmax": softmax,
    "bpr": bpr,
}
