"""The priority of threads, where work that can wait shares a core with the event loop (Linux)."""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

IO_THREAD = "event_engine"  # the name that gRPC's core gives its threads
THREADS = Path("/proc/self/task")


def lower_own_priority(niceness: int) -> None:
    """Lowers the priority of this thread, and of those that it starts (Linux; elsewhere nothing).

    Args:
        niceness: 0 to 19, as of the command `nice`.
    """
    if sys.platform == "linux":
        _lower(threading.get_native_id(), niceness)


def lower_io_priority(niceness: int) -> None:
    """Lowers the priority of gRPC's I/O threads below that of the event loop (Linux; elsewhere nothing).

    On a core that is busy with calls, three I/O threads would take three quarters of it to read and shed
    calls, and leave the event loop too little to answer those that it takes. Threads that gRPC starts later
    inherit the priority of the I/O thread that starts them.

    Args:
        niceness: 0 to 19, as of the command `nice`; 0 changes nothing.
    """
    if sys.platform != "linux":
        return
    lowered: set[int] = set()
    # One that had not been lowered may have started another meanwhile.
    while new := _io_threads() - lowered:
        for thread in new:
            _lower(thread, niceness)
        lowered |= new


def _io_threads() -> set[int]:
    found = set()
    for thread in THREADS.iterdir():
        with suppress(OSError):  # the thread has ended
            if (thread / "comm").read_text().strip() == IO_THREAD:
                found.add(int(thread.name))
    return found


def _lower(thread: int, niceness: int) -> None:
    with suppress(OSError):  # the thread has ended
        if os.getpriority(os.PRIO_PROCESS, thread) < niceness:
            os.setpriority(os.PRIO_PROCESS, thread, niceness)
