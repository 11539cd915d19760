"""Answers in time while several times as many calls come as a slow device can answer."""

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from animora_server.observability.metrics import Metrics
from animora_server.service import METHODS, SERVICE_NAME, GrpcServer
from animora_server.service.admission import AdmissionController
from animora_server.service.calls import CallHandler
from animora_server.settings import GrpcSettings
from tests.benchmarks.http2_connection import Outcome
from tests.benchmarks.open_loop import Phase, Plan, run

DEVICE_SECONDS = 0.005  # a call
RATE = 1 / DEVICE_SECONDS  # calls a second that the device can answer
SECONDS = 2.0
JUDGED_SECONDS = 10.0  # up to a timeout's worth of answers belongs to calls of before or after
TIMEOUT = 0.5


class SlowDevice:
    """Answers one call after another; knows how long they took it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self.calls = 0
        self.busy_seconds = 0.0

    async def answer(self, data: bytes, call: object) -> bytes:
        async with self._lock:
            started = time.perf_counter()
            await asyncio.sleep(DEVICE_SECONDS)
            self.busy_seconds += time.perf_counter() - started
            self.calls += 1
        return b"answer"


@pytest.mark.failure(8)
@pytest.mark.parametrize(("factor", "missing"), [(2, 10), (10, 20)])
async def test_an_overloaded_server_answers_in_time_what_it_can(factor, missing, seen):
    metrics = Metrics(CollectorRegistry(), SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(4096, 1_000_000), metrics.calls, TIMEOUT)
    device = SlowDevice()
    methods = dict.fromkeys(METHODS, device.answer)
    seconds = JUDGED_SECONDS if seen.judges_times else SECONDS
    phases = (Phase(factor * RATE, 1 + seconds), Phase(RATE / 4, SECONDS))
    async with GrpcServer(GrpcSettings(port=0, drain_delay=0, drain_grace=1), handler, methods) as server:
        plan = Plan(server.port, f"/{SERVICE_NAME}/Rank", [b"request"], [b"answer"], phases, 8, TIMEOUT)
        outcomes = await run(plan)
    overload = (outcomes.due >= 1) & (outcomes.due < 1 + seconds)
    answered = outcomes.outcome == Outcome.ANSWERED
    assert (overload & answered).any()
    assert not (outcomes.outcome == Outcome.OTHER_REPLY).any()
    assert (outcomes.outcome != Outcome.UNFINISHED).all()
    peak = device.calls / device.busy_seconds
    goodput = float((overload & answered).sum()) / seconds / peak
    seen.number(f"of the peak missing at {factor}x", 100 * (1 - goodput), at_most=missing, unit="%")
    late = outcomes.due[(outcomes.due >= 1 + seconds) & ~answered]
    recovery = late.max() - 1 - seconds if late.size else 0.0
    seen.number(f"recovery from {factor}x", float(recovery), at_most=10, unit="s")
