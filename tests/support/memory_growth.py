"""The memory of a server under load."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from tests.support.ledger import Ledger

FLAT = 0.02  # growth that is noise


def resident_bytes(pid: int) -> int:
    """The bytes that a process has in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096


def growth(samples: Sequence[int]) -> float:
    """By how much the second half of the samples is above the first, as a fraction."""
    half = len(samples) // 2
    return median(samples[half:]) / median(samples[:half]) - 1


async def growth_under_load(pid: int, ledger: Ledger, calls: int, samples: int = 10) -> float:
    """The growth of a process over this many calls of a ledger's load."""
    seen = []
    for _ in range(samples):
        await ledger.more(calls // samples)
        seen.append(resident_bytes(pid))
    return growth(seen)
