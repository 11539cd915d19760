"""Tasks that run beside requests until they are stopped, and whose death does not go unnoticed."""

import asyncio
import time
from collections.abc import Mapping

import structlog

log = structlog.get_logger(__name__)

STALL = 5.0  # seconds without a beat after which the event loop counts as dead


class Pulse:
    """Lets other threads notice an event loop that stands still."""

    def __init__(self) -> None:
        self._beat_at = time.monotonic()

    def beat(self) -> None:
        """The event loop turns: called on it, every now and then."""
        self._beat_at = time.monotonic()

    def dead(self) -> str | None:
        """Why the process should be restarted, or None. Called from any thread."""
        silent = time.monotonic() - self._beat_at
        return f"the event loop stands still for {silent:.1f} s" if silent > STALL else None


def tell_of_death(task: asyncio.Task[None], consequence: str) -> None:
    """Says aloud if a bug ends a task.

    Args:
        task: The task.
        consequence: What is no longer done then.
    """

    def report(ended: asyncio.Task[None]) -> None:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            log.critical(consequence, exc_info=error)

    task.add_done_callback(report)


async def first_of(events: Mapping[str, asyncio.Event]) -> str:
    """Waits until one of some events is set. Returns its name, or the first one's if several are."""
    waiting = [asyncio.create_task(event.wait()) for event in events.values()]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
    return next(name for name, event in events.items() if event.is_set())


async def stop(task: asyncio.Task[None] | None) -> None:
    """Cancels a task, if there is one, and waits for its end, however it comes."""
    if task is not None:
        task.cancel()
        await asyncio.wait((task,))
