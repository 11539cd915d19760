"""Pins workers to cores."""

import os
import sys


def usable_cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def can_pin() -> bool:
    """Whether `pin_worker` works on this system."""
    return sys.platform == "linux"


def pin_worker(worker: int) -> None:
    """Pins this process to one core, chosen by the worker's number (from 1) in rotation. Linux only."""
    cores = usable_cores()
    core = cores[(worker - 1) % len(cores)]
    for thread in os.listdir("/proc/self/task"):  # NumPy has started one; later ones inherit the mask
        os.sched_setaffinity(int(thread), {core})
