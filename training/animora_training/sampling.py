"""Negative sampling and the dropping of post ids, in whole batches."""

import torch
from torch import Tensor

MAX_REDRAWS = 64


class NegativeSampler:
    """Draws posts that a user has not interacted with, uniformly from given rows."""

    def __init__(self, users: Tensor, posts: Tensor, drawn_from: Tensor, generator: torch.Generator) -> None:
        """Sorts the positive pairs once.

        Args:
            users: int64 (n), rows of the positive pairs.
            posts: int64 (n), rows of the positive pairs.
            drawn_from: int64 (r), rows of the posts to draw from.
            generator: The source of chance.
        """
        self._span = int(torch.cat((posts, drawn_from)).max()) + 1
        self._positive = torch.sort(users * self._span + posts).values  # int64 (n)
        self._drawn_from = drawn_from
        self._generator = generator

    def draw(self, users: Tensor, count: int) -> Tensor:
        """Post rows int64 (b, count) for user rows int64 (b).

        A user who has interacted with nearly everything may get a positive after MAX_REDRAWS.
        """
        of_users = users.repeat_interleave(count)
        drawn = self._draw(len(of_users))
        refused = self._is_positive(of_users, drawn).nonzero().squeeze(1)
        for _ in range(MAX_REDRAWS):
            if not len(refused):
                break
            drawn[refused] = self._draw(len(refused))
            refused = refused[self._is_positive(of_users[refused], drawn[refused])]
        return drawn.view(-1, count)

    def _draw(self, count: int) -> Tensor:
        return self._drawn_from[torch.randint(len(self._drawn_from), (count,), generator=self._generator)]

    def _is_positive(self, users: Tensor, posts: Tensor) -> Tensor:
        keys = users * self._span + posts
        at = torch.searchsorted(self._positive, keys).clamp_(max=len(self._positive) - 1)
        return self._positive[at] == keys


def drop_probabilities(counts: Tensor, rate: float, scale: float) -> Tensor:
    """The chance float32 (post rows) that a post's id is dropped: rare posts' more often.

    rate + (1 - rate) · scale / (scale + count), and 1 for the unknown row 0.
    """
    rare = scale / (scale + counts.clamp(min=1))
    probabilities = rate + (1 - rate) * rare
    probabilities[0] = 1.0
    return probabilities
