"""Networks that take long, or for ever, to score one user: user 8, whom no golden row has.

What a loop computes is part of the scores: TorchScript leaves out loops without a result.
"""

import torch
from torch import Tensor

from tests.support.artifacts import TinyNetwork

USER = 8


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
