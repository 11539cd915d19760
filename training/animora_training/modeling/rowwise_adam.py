"""Row-wise (sparse) Adam: a step updates only the rows that it touches."""

import torch
from torch import Tensor

BETAS = (0.9, 0.99)
EPSILON = 1e-8


class RowwiseAdam:
    """Adam (Kingma and Ba 2015) for a table, with a step count for each row and a rate for each column.

    Attributes:
        table: floating (rows, width), changed in place.
    """

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self._mean = torch.zeros_like(table)
        self._square = torch.zeros_like(table)
        self._steps = torch.zeros(len(table), 1, device=table.device)

    def gather(self, rows: Tensor) -> Tensor:
        """A copy of rows int64 (r) that requires a gradient."""
        return self.table[rows].requires_grad_()

    @torch.no_grad()
    def step(self, rows: Tensor, gradient: Tensor, rates: Tensor) -> None:
        """Updates some rows of the table by their gradient.

        Args:
            rows: int64 (r), distinct and ascending.
            gradient: floating (r, width), gradient of the copy from `gather`.
            rates: floating (width), the learning rate of each column.
        """
        if len(rows) == len(self.table):  # all rows, in order: no copies
            mean, square, steps = self._mean, self._square, self._steps
        else:
            mean, square, steps = self._mean[rows], self._square[rows], self._steps[rows]
        steps += 1.0
        mean.lerp_(gradient, 1 - BETAS[0])
        square.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        correction = (1 - BETAS[1] ** steps).sqrt_().div_(1 - BETAS[0] ** steps)  # (r, 1)
        change = (mean / square.sqrt().add_(EPSILON)).mul_(correction).mul_(rates)
        if len(rows) == len(self.table):
            self.table -= change
            return
        self.table.index_add_(0, rows, change, alpha=-1)
        self._mean[rows], self._square[rows], self._steps[rows] = mean, square, steps

    def state(self) -> dict[str, Tensor]:
        """Table, moments and step counts, not copied."""
        return {"table": self.table, "mean": self._mean, "square": self._square, "steps": self._steps}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Copies a state back into the table, moments and step counts."""
        for mine, kept in zip(self.state().values(), state.values(), strict=True):
            mine.copy_(kept)
