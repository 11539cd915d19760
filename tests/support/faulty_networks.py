"""Networks that pass every check at load, and fail, hang, or score differently, once requests arrive.

Most tell requests from checks by the table of post vectors, which is small in the golden rows, and by the
posts of a batch, which are all at row 0 while a model is warmed.
"""

import torch
from torch import Tensor

from tests.support.artifacts import TinyNetwork

REQUEST_ROWS = 1000  # of the table of a catalog, at least; a literal below, as TorchScript needs it


class RaisesLater(TinyNetwork):
    """Raises an error for requests."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        if post_table.size(0) >= 1000 and bool((post_index > 0).any()):
            raise RuntimeError("no scores today")
        return self.forward(user_rows[segments], post_table[post_index])


class NotFiniteLater(TinyNetwork):
    """Gives scores that are not finite for requests."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        logits = self.forward(user_rows[segments], post_table[post_index])
        if post_table.size(0) >= 1000 and bool((post_index > 0).any()):
            return logits / 0.0
        return logits


class Slow(TinyNetwork):
    """Gives the scores of a TinyNetwork, slowly."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        logits = self.forward(user_rows[segments], post_table[post_index])
        for _ in range(300):
            logits = logits + self.forward(user_rows[segments], post_table[post_index]) * 0.0
        return logits


class Shifted(TinyNetwork):
    """Gives logits that are higher than those of a TinyNetwork."""

    def forward(self, user_rows: Tensor, vectors: Tensor) -> Tensor:
        return (self.users[user_rows] * vectors).sum(dim=1) + 3.0


# What a loop computes is part of the scores: TorchScript leaves out loops without a result.
HANGING_USER = 8  # whom no golden row has; the user of row 2, a literal below


class HangsForOne(TinyNetwork):
    """Is fast, so that its batches are executed on the event loop, and never returns for one user."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        zeros = torch.zeros(1)
        while bool((user_rows == 2).any()):
            zeros = zeros + 0.0
        return self.forward(user_rows[segments], post_table[post_index]) + zeros


class SlowAndHangsForOne(TinyNetwork):
    """Takes milliseconds, so that its batches are executed by the device's thread; hangs for one user."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        zeros = torch.zeros(1)
        for _ in range(5_000):
            zeros = zeros + 0.0
        while bool((user_rows == 2).any()):
            zeros = zeros + 0.0
        return self.forward(user_rows[segments], post_table[post_index]) + zeros


class StallsForOne(TinyNetwork):
    """Takes milliseconds, and a second or more for one user."""

    @torch.jit.export
    def score(self, user_rows: Tensor, segments: Tensor, post_table: Tensor, post_index: Tensor) -> Tensor:
        zeros = torch.zeros(1)
        for _ in range(200_000 if bool((user_rows == 2).any()) else 2_000):
            zeros = zeros + 0.0
        return self.forward(user_rows[segments], post_table[post_index]) + zeros
