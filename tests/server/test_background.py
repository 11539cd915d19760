"""Tasks beside requests: stopped for good, and not dead unheard."""

import asyncio

from structlog.testing import capture_logs

from animora_server.background import stop, tell_of_death


async def fail() -> None:
    raise ValueError("a bug")


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


async def test_a_task_that_a_bug_ends_is_told_of():
    task = asyncio.create_task(fail())
    tell_of_death(task, "nothing is done any more")
    with capture_logs() as logs:
        await asyncio.wait((task,))
        await asyncio.sleep(0)
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [
        ("critical", "nothing is done any more")
    ]


async def test_a_task_that_is_stopped_has_ended_and_is_not_told_of():
    task = asyncio.create_task(wait_for_ever())
    tell_of_death(task, "nothing is done any more")
    with capture_logs() as logs:
        await stop(task)
        await asyncio.sleep(0)
    assert task.cancelled()
    assert not logs


async def test_what_was_never_started_is_stopped():
    await stop(None)
