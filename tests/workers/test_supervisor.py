"""The supervisor over workers that end, hang and refuse when they are told to."""

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from animora_server.errors import ConfigurationError
from animora_server.observability.aggregation import taken, together
from animora_server.observability.instruments import Counter
from animora_server.observability.metrics import WorkerMetrics
from animora_server.workers.restart_policy import RestartPolicy
from animora_server.workers.supervisor import Supervisor
from tests.limits import HANG_TIMEOUT

PATIENCE = RestartPolicy(
    look_interval=0.01, hang_timeout=0.05, first_delay=0.001, most_ends=3, scrape_timeout=0.05
)
KILLED = -9


class Run:
    """One run of a worker that does what the test says."""

    def __init__(self, number, *, drains=True):
        self.number = number
        self.name = str(number)
        self.pid = 0
        self.report = ()
        self.unready: str | None = "starting"
        self.served_at: float | None = None
        self.refused = None
        self.hung = False
        self.well = True
        self._drains = drains
        self._missed = 0
        self._status = asyncio.get_running_loop().create_future()

    def serve(self, *, since=0.0):
        self.unready, self.served_at = None, time.monotonic() - since

    def end(self, status):
        if not self._status.done():
            self._status.set_result(status)

    async def ended(self):
        return await self._status

    def stop(self):
        if self._drains:
            self.end(0)

    def kill(self):
        self.end(KILLED)

    def look(self):
        self._missed = 0 if self.well else self._missed + 1
        return self._missed

    async def refresh(self, within):
        if not self.well:
            await asyncio.sleep(within)


class Stage:
    """A supervisor and the runs that it has started."""

    def __init__(self, count, patience=PATIENCE, **behaviour):
        self.registry = CollectorRegistry()
        self.stopping = asyncio.Event()
        self.runs: asyncio.Queue[Run] = asyncio.Queue()
        self._behaviour = behaviour
        metrics = WorkerMetrics(self.registry)
        self.supervisor = Supervisor(count, self._start, 0.05, metrics, patience, self.stopping)

    async def next(self):
        async with asyncio.timeout(HANG_TIMEOUT):
            return await self.runs.get()

    def restarts(self, why):
        return self.registry.get_sample_value("animora_worker_restarts_total", {"why": why})

    async def _start(self, number):
        run = Run(number, **self._behaviour)
        self.runs.put_nowait(run)
        return run


@asynccontextmanager
async def running(stage):
    task = asyncio.create_task(stage.supervisor.run())
    try:
        yield task
    finally:
        stage.stopping.set()
        await asyncio.wait((task,), timeout=10)
        assert task.done()


async def test_it_is_ready_while_at_least_one_worker_serves():
    stage = Stage(2)
    async with running(stage):
        one, other = await stage.next(), await stage.next()
        assert stage.supervisor.unready() == "no worker answers calls: starting"
        one.serve()
        assert stage.supervisor.unready() is None
        assert stage.registry.get_sample_value("animora_workers_serving") == 1
        other.serve()
        assert stage.registry.get_sample_value("animora_workers_serving") == 2
        stage.stopping.set()
        assert stage.supervisor.unready() == "draining"


async def test_a_worker_that_ends_is_started_again_under_its_number():
    stage = Stage(2)
    async with running(stage):
        await stage.next()
        other = await stage.next()
        other.end(1)
        assert (await stage.next()).number == other.number
    assert stage.restarts("failed") == 1


async def test_one_that_hangs_is_killed_and_started_again():
    stage = Stage(1)
    async with running(stage):
        run = await stage.next()
        run.serve()
        run.well = False
        assert (await stage.next()).number == 1
    assert run.hung
    assert stage.restarts("hung") == 1


async def test_workers_that_end_again_and_again_are_given_up():
    stage = Stage(2)
    async with running(stage) as task:
        healthy = await stage.next()
        run = await stage.next()
        for _ in range(PATIENCE.most_ends - 1):
            run.end(1)
            run = await stage.next()
            assert run.number != healthy.number
        run.end(1)
        assert await task == 1
    assert stage.runs.empty()


async def test_one_that_served_long_enough_begins_anew():
    stage = Stage(1)
    async with running(stage) as task:
        for _ in range(3 * PATIENCE.most_ends):
            run = await stage.next()
            run.serve(since=PATIENCE.proven_after)
            run.end(1)
        await stage.next()
        assert not task.done()


async def test_one_that_was_told_to_end_from_outside_is_replaced_however_often():
    stage = Stage(1)
    async with running(stage) as task:
        for _ in range(3 * PATIENCE.most_ends):
            (await stage.next()).end(0)
        await stage.next()
        assert not task.done()
    assert stage.restarts("stopped") == 3 * PATIENCE.most_ends


async def test_a_wrong_option_ends_all_before_any_has_served():
    stage = Stage(2)
    async with running(stage) as task:
        run = await stage.next()
        run.refused = "grpc.port: is taken"
        run.end(2)
        with pytest.raises(ConfigurationError, match=r"grpc\.port: is taken"):
            await task


async def test_a_wrong_option_of_later_does_not_end_those_who_serve():
    stage = Stage(2)
    async with running(stage) as task:
        one, other = await stage.next(), await stage.next()
        one.serve()
        other.refused = "grpc.tls_key: cannot read"
        other.end(2)
        assert (await stage.next()).number == other.number
        assert not task.done()


async def test_one_that_does_not_drain_is_killed_and_shows_in_the_status():
    stage = Stage(1, drains=False)
    async with running(stage) as task:
        await stage.next()
        stage.stopping.set()
        assert await task == 1


async def test_one_that_drains_leaves_a_status_of_success():
    stage = Stage(3)
    async with running(stage) as task:
        for _ in range(3):
            await stage.next()
        stage.stopping.set()
        assert await task == 0


async def test_a_worker_that_cannot_be_started_is_tried_again_and_then_given_up():
    async def fails(number):
        raise BlockingIOError(11, "no process left")

    stage = Stage(1)
    stage.supervisor._start = fails
    async with running(stage) as task:
        assert await task == 1


async def test_counts_of_past_runs_and_of_one_that_hangs_stay_in_the_totals():
    stage = Stage(2, replace(PATIENCE, hang_timeout=60))
    async with running(stage):
        one, other = await stage.next(), await stage.next()
        one.report, other.report = calls(3), calls(4)
        assert await total(stage) == 7
        one.end(1)
        again = await stage.next()
        assert await total(stage) == 7
        again.report = calls(2)
        other.well = False
        assert await total(stage) == 9


def calls(number):
    registry = CollectorRegistry()
    Counter("calls", "Calls.", registry).labels().inc(number)
    return taken(registry)


async def total(stage):
    (family,) = together(await stage.supervisor.reports())
    return sum(family.samples.values())
