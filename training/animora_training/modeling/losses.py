"""What training lowers, from the logits of a step's positives and of its users with its drawn posts."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding, softplus


@dataclass(frozen=True, slots=True)
class StepLogits:
    """The logits of a step.

    Attributes:
        positive: floating (p), of the step's positives.
        segments: int64 (p), which of the users (b) each positive belongs to.
        drawn: floating (b, m), of all users with all posts drawn.
        taken: bool (b, m), where a drawn post is one of the user's positives, so not a negative.
        weight: How many posts of the catalog one that is drawn stands for.
        represents: floating (p), how many of its user's positives each one stands for.
        luck: floating (p), below 1, for what is left to chance about each positive.
    """

    positive: Tensor
    segments: Tensor
    drawn: Tensor
    taken: Tensor
    weight: float
    represents: Tensor
    luck: Tensor


def logistic(logits: StepLogits) -> Tensor:
    """Log loss over all pairs of the users and the catalog, drawn posts standing for the others, summed."""
    negatives = softplus(logits.drawn).masked_fill(logits.taken, 0.0)
    positives = softplus(-logits.positive) * logits.represents
    return positives.sum() + logits.weight * negatives.sum()


def softmax(logits: StepLogits) -> Tensor:
    """Cross entropy of each positive among itself and all posts that are no positives, summed.

    The sampled softmax of Jean et al. 2015: the sum over the catalog is estimated by the posts drawn.
    """
    others = torch.logsumexp(logits.drawn.masked_fill(logits.taken, -torch.inf), dim=1)
    others = others + torch.log(torch.tensor(logits.weight))
    return (softplus(_rows(others, logits.segments) - logits.positive) * logits.represents).sum()


def bpr(logits: StepLogits) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009): each positive beside one drawn post, summed.

    A positive whose drawn post is the user's own too counts nothing in this step.
    """
    posts = logits.drawn.shape[1]
    columns = (logits.luck * posts).long().clamp(max=posts - 1)
    beside = _rows(logits.drawn.flatten(), logits.segments * posts + columns)
    refused = logits.taken[logits.segments, columns]
    return (softplus(beside - logits.positive).masked_fill(refused, 0.0) * logits.represents).sum()


def _rows(values: Tensor, places: Tensor) -> Tensor:
    """Values (n) at places int64 (p), whose gradients are summed in the same order each time."""
    # An index's are summed by several threads in whatever order, where there are many.
    return embedding(places, values[:, None]).squeeze(1)


LOSSES: dict[str, Callable[[StepLogits], Tensor]] = {
    "logistic": logistic,
    "softmax": softmax,
    "bpr": bpr,
}
