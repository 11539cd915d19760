"""Data-parallel training: the process group that torchrun starts, and its collective operations."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from animora_training.errors import PeerFailed

# Of collective operations: the processes are at most some steps apart.
TIMEOUT = timedelta(minutes=30)
# Of waiting for rank zero, which may read, factorise or evaluate for hours. If it dies, its connections close
# and the wait ends.
WORK_TIMEOUT = timedelta(days=7)
ROWS_AT_ONCE = 1 << 14

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """This process's place in a group of processes. In a group of one, collective operations do nothing.

    User rows are sharded: row r belongs to rank r % world_size, which alone stores and trains it. Collective
    operations (`all_reduce`, `barrier`, `any`, `gather_rows`, `on_rank_zero`) must be called by all
    processes.

    Attributes:
        rank: Rank of this process.
        world_size: Number of processes.
        wait_group: Group with a long timeout for waiting for rank zero; None for a single process.
        threads: Threads that rank zero may use while the other ranks wait; 0 for each library's default.
    """

    rank: int = 0
    world_size: int = 1
    wait_group: dist.ProcessGroup | None = None
    threads: int = 0

    @property
    def is_rank_zero(self) -> bool:
        """Whether this process reads, reports and writes."""
        return self.rank == 0

    def owns(self, rows: Tensor) -> Tensor:
        """Bool (n): which user rows int64 (n) belong to this process."""
        return rows % self.world_size == self.rank

    def local_rows(self, rows: Tensor) -> Tensor:
        """Positions of this process's user rows int64 (n) in its table."""
        return rows // self.world_size

    def row_count(self, users: int) -> int:
        """Number of rows of this process, of `users` user rows in all."""
        return len(range(self.rank, users, self.world_size))

    def own_rows(self, table: Tensor) -> Tensor:
        """Copies this process's rows of a whole user table."""
        return table[self.rank :: self.world_size].clone()

    def all_reduce(self, tensors: Iterable[Tensor]) -> None:
        """Sums each tensor over the processes, in place. All tensors must have the same dtype and device."""
        if self.world_size == 1:
            return
        targets = list(tensors)
        flat = torch.cat([tensor.flatten() for tensor in targets])  # one exchange for all tensors
        dist.all_reduce(flat)
        sums = torch.split(flat, [tensor.numel() for tensor in targets])
        for tensor, total in zip(targets, sums, strict=True):
            tensor.copy_(total.view_as(tensor))

    def barrier(self) -> None:
        """Waits until all processes have called it."""
        if self.world_size > 1:
            dist.barrier()

    def any(self, here: bool) -> bool:
        """Whether `here` is true in any process."""
        count = torch.tensor([float(here)])
        self.all_reduce([count])
        return bool(count)

    def gather_rows(self, share: Tensor, rows: int) -> Tensor:
        """Gathers the whole user table on the CPU of rank zero, in chunks to bound the memory on the device.

        Args:
            share: floating (own rows, ...), the rows of this process.
            rows: Number of rows of the whole table.

        Returns:
            floating (rows, ...) on rank zero; no rows on other ranks.
        """
        if self.world_size == 1:
            return share.to("cpu", copy=True)
        table = torch.empty(rows if self.is_rank_zero else 0, *share.shape[1:], dtype=share.dtype)
        longest = -(-rows // self.world_size)  # shares may differ by a row
        for start in range(0, longest, ROWS_AT_ONCE):
            mine = share[start : start + ROWS_AT_ONCE]
            length = min(ROWS_AT_ONCE, longest - start)
            piece = torch.zeros(length, *share.shape[1:], dtype=share.dtype, device=share.device)
            piece[: len(mine)] = mine
            pieces = [torch.empty_like(piece) for _ in range(self.world_size)] if self.is_rank_zero else None
            dist.gather(piece, pieces)
            for rank, theirs in enumerate(pieces or ()):
                place = table[start * self.world_size + rank :: self.world_size][:length]
                place.copy_(theirs[: len(place)])
        return table

    def on_rank_zero(self, work: Callable[[], Result]) -> Result:
        """Calls a function on rank zero and returns its result in every process.

        Raises:
            PeerFailed: On the other ranks, if the function failed; rank zero raises the function's error.
        """
        if self.world_size == 1:
            return work()
        result: list[object] = [None, False]
        if self.is_rank_zero:
            try:
                result = [work(), True]
            except Exception:
                dist.broadcast_object_list(result, group=self.wait_group)
                raise
        dist.broadcast_object_list(result, group=self.wait_group)
        if not result[1]:
            raise PeerFailed("rank zero failed; its own message says why")
        return cast(Result, result[0])


SINGLE_PROCESS = ProcessGroup()


@contextmanager
def process_group(world_size: int, device: torch.device) -> Iterator[ProcessGroup]:
    """Joins the process group that torchrun set up; SINGLE_PROCESS for a world size of 1.

    The backend is gloo for CPU tensors and nccl for CUDA tensors.
    """
    if world_size == 1:
        yield SINGLE_PROCESS
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        waiting = dist.new_group(backend="gloo", timeout=WORK_TIMEOUT)
        yield ProcessGroup(dist.get_rank(), world_size, waiting, _threads(world_size))
    finally:
        dist.destroy_process_group()


def _threads(world_size: int) -> int:
    """Threads that one process may use while the other processes of the machine wait.

    torchrun sets one thread a process by default, so a value of one counts as unset.
    """
    each = torch.get_num_threads()
    if each > 1:
        return each * world_size
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS
    return len(affinity(0)) if affinity else os.cpu_count() or 1
