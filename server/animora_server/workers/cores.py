"""Which cores workers may run on."""

import os
import sys


def usable() -> list[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def may_pin() -> bool:
    """Whether `pin` works on this system."""
    return sys.platform == "linux"


def pin(worker: int) -> None:
    """Keeps this process on one core: workers, numbered from 1, take them in turns (Linux)."""
    cores = usable()
    core = cores[(worker - 1) % len(cores)]
    for thread in os.listdir("/proc/self/task"):  # NumPy has begun one; others begin where their creator is
        os.sched_setaffinity(int(thread), {core})
