"""Answers in time while several times as many calls come as a slow device can answer."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from animora_server.service import SERVICE_NAME
from tests.benchmarks.http2_connection import Outcome
from tests.benchmarks.open_loop import Phase, Plan, run
from tests.service.slow_server import ANSWER, DEVICE_SECONDS
from tests.support.until import HANG_TIMEOUT

RATE = 1 / DEVICE_SECONDS  # calls a second that the device can answer
SECONDS = 2.0
JUDGED_SECONDS = 10.0  # up to a timeout's worth of answers belongs to calls of before or after
TIMEOUT = 0.5


class SlowServer:
    """A running `slow_server`, on the first core alone: the load is on others."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process = process
        self.port = port

    async def end(self) -> float:
        """Ends it. Returns how many calls a second its device answered."""
        output, _ = await self._process.communicate(b"")  # closes its input
        return float(output)


@asynccontextmanager
async def slow_server() -> AsyncIterator[SlowServer]:
    process = await asyncio.create_subprocess_exec(
        *("taskset", "-c", "0", sys.executable, "-m", "tests.service.slow_server"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield SlowServer(process, int(await process.stdout.readline()))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.mark.failure(8)
@pytest.mark.parametrize(("factor", "missing"), [(2, 10), (10, 20)])
async def test_an_overloaded_server_answers_in_time_what_it_can(factor, missing, seen):
    seconds = JUDGED_SECONDS if seen.judges_times else SECONDS
    phases = (Phase(factor * RATE, 1 + seconds), Phase(RATE / 4, SECONDS))
    async with asyncio.timeout(HANG_TIMEOUT), slow_server() as server:
        plan = Plan(server.port, f"/{SERVICE_NAME}/Rank", [b"request"], [ANSWER], phases, 8, TIMEOUT)
        outcomes = await run(plan)
        peak = await server.end()
    overload = (outcomes.due >= 1) & (outcomes.due < 1 + seconds)
    answered = outcomes.outcome == Outcome.ANSWERED
    assert (overload & answered).any()
    assert not (outcomes.outcome == Outcome.OTHER_REPLY).any()
    assert (outcomes.outcome != Outcome.UNFINISHED).all()
    goodput = float((overload & answered).sum()) / seconds / peak
    seen.number(f"of the peak missing at {factor}x", 100 * (1 - goodput), at_most=missing, unit="%")
    late = outcomes.due[(outcomes.due >= 1 + seconds) & ~answered]
    recovery = late.max() - 1 - seconds if late.size else 0.0
    seen.number(f"recovery from {factor}x", float(recovery), at_most=10, unit="s")
