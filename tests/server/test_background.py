"""Background tasks outlive errors, can be stopped, and report their health."""

import asyncio
from collections import deque

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from animora_server.background import (
    MAX_REASONS,
    STALL,
    BackgroundLoop,
    Backoff,
    Liveness,
    first_of,
    log_task_failure,
    stop,
)
from animora_server.errors import StoreError
from animora_server.observability.metrics import BackgroundMetrics
from tests.support.clocks import ManualClock
from tests.support.until import HANG_TIMEOUT

AT_ONCE = Backoff(0.0, 0.0)


async def fail() -> None:
    raise ValueError("a bug")


async def wait_for_ever() -> None:
    await asyncio.Event().wait()


class Rounds:
    """Rounds with given outcomes; the last one lasts until it is stopped."""

    def __init__(self, *outcomes: BaseException | None) -> None:
        self._outcomes = deque(outcomes)
        self.all_done = asyncio.Event()

    async def run(self) -> float:
        if not self._outcomes:
            self.all_done.set()
            await asyncio.Event().wait()
        outcome = self._outcomes.popleft()
        if outcome is not None:
            raise outcome
        return 0.0


async def run_through(rounds: Rounds) -> BackgroundLoop:
    """A loop that has run all rounds but the last, and was stopped in it."""
    loop = BackgroundLoop("task", rounds.run, backoff=AT_ONCE)
    loop.start()
    async with asyncio.timeout(HANG_TIMEOUT):
        await rounds.all_done.wait()
    assert loop.dead() is None
    await loop.stop()
    assert loop.dead() is None
    return loop


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StoreError("PostgreSQL is away"), "expected"),
        (ConnectionResetError(), "expected"),
        (TimeoutError(), "expected"),
        (ValueError("a bug"), "unexpected"),
        (MemoryError(), "unexpected"),
        (OverflowError("date value out of range"), "unexpected"),
        (asyncio.CancelledError(), "unexpected"),
    ],
    ids=repr,
)
async def test_a_loop_continues_after_an_error_and_counts_it(error, kind):
    with capture_logs() as logs:
        loop = await run_through(Rounds(error, None))
    assert loop.failures == {"expected": 0, "unexpected": 0} | {kind: 1}
    assert [entry["log_level"] for entry in logs] == ["warning" if kind == "expected" else "error", "info"]
    assert {entry["task"] for entry in logs} == {"task"}


async def test_a_long_row_of_failures_is_logged_a_few_times():
    with capture_logs() as logs:
        loop = await run_through(Rounds(*[StoreError("away") for _ in range(100)], None))
    assert loop.failures["expected"] == 100
    assert [entry["failures"] for entry in logs] == [1, 2, 4, 8, 16, 32, 64, 100]
    assert logs[-1]["event"] == "background task recovered"


async def test_a_failure_for_another_reason_is_logged_at_once():
    errors = [StoreError(text) for text in ("away", "away", "away", "denied", "away", "denied")]
    with capture_logs() as logs:
        await run_through(Rounds(*errors, KeyError("bug"), None))
    assert [entry["failures"] for entry in logs] == [1, 2, 4, 7, 7]
    assert [entry.get("error") for entry in logs[:3]] == ["away", "away", "denied"]
    assert logs[3]["log_level"] == "error"


async def test_errors_whose_text_differs_each_time_are_logged_a_few_times():
    with capture_logs() as logs:
        await run_through(Rounds(*[StoreError(f"away for {number} s") for number in range(200)], None))
    assert len(logs) <= MAX_REASONS + 8


async def test_an_error_without_a_message_is_logged_by_its_type():
    with capture_logs() as logs:
        await run_through(Rounds(TimeoutError()))
    assert logs[0]["error"] == "TimeoutError"


async def test_a_pause_ends_early_when_the_loop_is_woken():
    wake, rounds = asyncio.Event(), asyncio.Queue[None]()

    async def run_round() -> float:
        wake.clear()
        rounds.put_nowait(None)
        return 3600.0

    loop = BackgroundLoop("task", run_round, wake=wake)
    loop.start()
    async with asyncio.timeout(HANG_TIMEOUT):
        await rounds.get()
        wake.set()
        await rounds.get()
    await loop.stop()


async def test_a_loop_without_pauses_does_not_block_the_event_loop():
    wake = asyncio.Event()
    wake.set()

    async def run_round() -> float:
        return 0.0

    loop = BackgroundLoop("task", run_round, wake=wake)
    loop.start()
    async with asyncio.timeout(HANG_TIMEOUT):
        await asyncio.sleep(0.01)
        await loop.stop()


async def test_a_round_that_swallows_a_cancellation_is_stopped():
    began = asyncio.Event()

    async def run_round() -> float:
        try:
            began.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            pass
        return 0.0

    loop = BackgroundLoop("task", run_round)
    loop.start()
    async with asyncio.timeout(HANG_TIMEOUT):
        await began.wait()
        await loop.stop()
    assert loop.dead() is None


async def cancelled_loop() -> BackgroundLoop:
    """A loop whose task was cancelled from outside."""
    loop = BackgroundLoop("task", wait_for_an_hour)
    before = asyncio.all_tasks()
    loop.start()
    (task,) = asyncio.all_tasks() - before
    task.cancel()
    await asyncio.wait((task,))
    return loop


async def test_a_loop_that_ended_without_being_stopped_is_dead():
    with capture_logs() as logs:
        loop = await cancelled_loop()
        await asyncio.sleep(0)
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [("critical", "background task ended")]
    assert loop.dead() == "background task task ended"
    liveness = Liveness(BackgroundLoop("heartbeat", wait_for_an_hour))
    assert liveness.dead() is None
    liveness.watch(loop)
    assert liveness.dead() == "background task task ended"


async def wait_for_an_hour() -> float:
    return await asyncio.sleep(3600, 0.0)


async def test_an_event_loop_without_a_heartbeat_is_dead():
    clock = ManualClock()
    loop = BackgroundLoop("heartbeat", wait_for_an_hour, clock=clock)
    liveness = Liveness(loop)
    clock.now += 1000.0
    assert liveness.dead() is None  # it was not started
    loop.start()
    clock.now += STALL
    assert liveness.dead() is None
    clock.now += 1.0
    assert liveness.dead() == "the event loop is blocked for 6.0 s"
    await loop.stop()


async def test_metrics_show_failures_and_the_last_success():
    registry = CollectorRegistry()
    rounds = Rounds(None, StoreError("away"), ValueError("a bug"), ValueError("a bug"))
    loop = await run_through(rounds)
    BackgroundMetrics(registry).watch(loop)

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(name, {"task": "task", **labels})

    assert value("animora_background_failures_total", kind="expected") == 1
    assert value("animora_background_failures_total", kind="unexpected") == 2
    age = value("animora_background_age_seconds")
    assert age is not None
    assert age >= 0


def test_pauses_double_up_to_the_longest_and_half_of_each_is_random():
    backoff = Backoff(first=0.1, longest=2.0)
    for failures, longest in ((1, 0.1), (2, 0.2), (3, 0.4), (6, 2.0), (10**6, 2.0)):
        pauses = [backoff.delay(failures) for _ in range(50)]
        assert all(longest / 2 <= pause <= longest for pause in pauses)
        assert len(set(pauses)) > 1


async def test_a_task_that_a_bug_ends_is_logged():
    task = asyncio.create_task(fail())
    log_task_failure(task, "nothing is done any more")
    with capture_logs() as logs:
        await asyncio.wait((task,))
        await asyncio.sleep(0)
    assert [(entry["log_level"], entry["event"]) for entry in logs] == [
        ("critical", "nothing is done any more")
    ]


async def test_a_task_that_is_stopped_has_ended_and_is_not_logged():
    task = asyncio.create_task(wait_for_ever())
    log_task_failure(task, "nothing is done any more")
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


async def test_a_task_that_was_never_started_is_stopped():
    await stop(None)
