"""Tasks that run beside requests until they are stopped, and whose death does not go unnoticed."""

import asyncio

import structlog

log = structlog.get_logger(__name__)


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


async def stop(task: asyncio.Task[None] | None) -> None:
    """Cancels a task, if there is one, and waits for its end, however it comes."""
    if task is not None:
        task.cancel()
        await asyncio.wait((task,))
