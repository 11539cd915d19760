"""Data-parallel training: the processes that torchrun starts, and what they tell one another."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from animora_training.errors import FailedElsewhere

# Of what all processes do together: they are at most some steps apart.
TIMEOUT = timedelta(minutes=30)
# Of the wait for the first process, which may read, factorise or judge for hours. If it ends, its connections
# end, and so does the wait.
WORK_TIMEOUT = timedelta(days=7)
ROWS_AT_ONCE = 1 << 14

Told = TypeVar("Told")


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """One process among several; alone, every method does nothing.

    User rows are dealt out: row r belongs to the process r % world, which alone keeps and trains it.

    Attributes:
        rank: Which one this is.
        world: How many there are.
        waiting: The group in which the others wait for the first one; None for one process.
        threads: How many the first one may use while the others wait; 0 leaves it to each library.
    """

    rank: int = 0
    world: int = 1
    waiting: dist.ProcessGroup | None = None
    threads: int = 0

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

    def rows(self, users: int) -> int:
        """How many of so many user rows are owned here."""
        return len(range(self.rank, users, self.world))

    def share(self, table: Tensor) -> Tensor:
        """A copy of the rows of a whole user table that are owned here."""
        return table[self.rank :: self.world].clone()

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Adds up each tensor over the processes, in place; all are of one type and device."""
        if self.world == 1:
            return
        every = list(tensors)
        together = torch.cat([tensor.flatten() for tensor in every])  # one exchange for all
        dist.all_reduce(together)
        parts = torch.split(together, [tensor.numel() for tensor in every])
        for tensor, part in zip(every, parts, strict=True):
            tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Waits until all processes have come so far."""
        if self.world > 1:
            dist.barrier()

    def any(self, here: bool) -> bool:
        """Whether something is so in any process."""
        count = torch.tensor([float(here)])
        self.sum([count])
        return bool(count)

    def whole(self, share: Tensor, rows: int) -> Tensor:
        """A copy on the CPU of the whole user table of so many rows, from all shares.

        In the first process only, piece by piece: it may have no room beside a share. The others get no rows.
        """
        if self.world == 1:
            return share.to("cpu", copy=True)
        table = torch.empty(rows if self.first else 0, *share.shape[1:], dtype=share.dtype)
        longest = -(-rows // self.world)  # shares may differ by a row
        for start in range(0, longest, ROWS_AT_ONCE):
            mine = share[start : start + ROWS_AT_ONCE]
            length = min(ROWS_AT_ONCE, longest - start)
            piece = torch.zeros(length, *share.shape[1:], dtype=share.dtype, device=share.device)
            piece[: len(mine)] = mine
            pieces = [torch.empty_like(piece) for _ in range(self.world)] if self.first else None
            dist.gather(piece, pieces)
            for rank, theirs in enumerate(pieces or ()):
                place = table[start * self.world + rank :: self.world][:length]
                place.copy_(theirs[: len(place)])
        return table

    def once(self, work: Callable[[], Told]) -> Told:
        """What the first process gets from some work, in every process; the others wait for it.

        Raises:
            FailedElsewhere: The work failed; the first process raises what it raised.
        """
        if self.world == 1:
            return work()
        told: list[object] = [None, False]
        if self.first:
            try:
                told = [work(), True]
            except Exception:
                dist.broadcast_object_list(told, group=self.waiting)
                raise
        dist.broadcast_object_list(told, group=self.waiting)
        if not told[1]:
            raise FailedElsewhere("the first process has failed, and says why")
        return cast(Told, told[0])


ALONE = ProcessGroup()


@contextmanager
def process_group(world: int, device: torch.device) -> Iterator[ProcessGroup]:
    """This process's place among so many, which torchrun started; alone without torchrun.

    gloo joins processes on CPUs; on GPUs nccl does, and gloo for what is not on them.
    """
    if world == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        waiting = dist.new_group(backend="gloo", timeout=WORK_TIMEOUT)
        yield ProcessGroup(dist.get_rank(), world, waiting, _threads(world))
    finally:
        dist.destroy_process_group()


def _threads(world: int) -> int:
    """How many threads of all processes of a machine one of them may use.

    torchrun allows each process one thread unless OMP_NUM_THREADS says otherwise; one thread each is taken as
    nobody's choice.
    """
    each = torch.get_num_threads()
    if each > 1:
        return each * world
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
