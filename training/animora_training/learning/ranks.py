"""Data-parallel training: the processes that torchrun starts, and what they tell one another."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

TIMEOUT = timedelta(minutes=30)  # one process may read data or factorise while the others wait

Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class Ranks:
    """One process among several; alone, every method does nothing.

    User rows are dealt out: row r belongs to the process r % world, which alone keeps and trains it.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reads, reports and writes."""
        return self.rank == 0

    def owns(self, rows: Tensor) -> Tensor:
        """Bool (n): which user rows int64 (n) are kept here."""
        return rows % self.world == self.rank

    def local(self, rows: Tensor) -> Tensor:
        """Where user rows int64 (n) that are owned here are in this process's table."""
        return rows // self.world

    def share(self, table: Tensor) -> Tensor:
        """A copy of the rows of a whole user table that are owned here."""
        return table[self.rank :: self.world].clone()

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Adds up each tensor over the processes, in place."""
        if self.world > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def whole(self, share: Tensor, rows: int) -> Tensor:
        """A copy of the whole user table of so many rows, from all shares, in every process."""
        if self.world == 1:
            return share.clone()
        longest = -(-rows // self.world)
        padded = torch.zeros(longest, *share.shape[1:], dtype=share.dtype, device=share.device)
        padded[: len(share)] = share
        shares = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(shares, padded)
        return torch.stack(shares, dim=1).flatten(0, 1)[:rows].clone()

    def once(self, work: Callable[[], Told]) -> Told:
        """What the first process gets from some work, in every process; the others wait for it."""
        if self.world == 1:
            return work()
        values = [work() if self.first else None]
        dist.broadcast_object_list(values)
        return cast(Told, values[0])


@contextmanager
def ranks(world: int, device: torch.device) -> Iterator[Ranks]:
    """This process's place among so many, which torchrun started; alone without torchrun.

    gloo joins processes on CPUs, nccl on GPUs.
    """
    if world == 1:
        yield Ranks()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield Ranks(dist.get_rank(), world)
    finally:
        dist.destroy_process_group()
