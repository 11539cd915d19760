"""Tasks beside requests: stopped for good, and not dead unheard."""

import asyncio

from structlog.testing import capture_logs

from animora_server.background import first_of, stop, tell_of_death


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


async def test_the_first_of_several_events_is_named_and_no_task_is_left():
    events = {name: asyncio.Event() for name in ("one", "another", "a third")}
    waiting = asyncio.create_task(first_of(events))
    await asyncio.sleep(0)
    assert not waiting.done()
    events["a third"].set()
    events["another"].set()
    assert await waiting == "another"
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_was_never_started_is_stopped():
    await stop(None)
