"""The supervisor over fake workers that end, hang and refuse as a test demands."""

import asyncio
import math
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from animora_server.background import BackgroundLoop, Backoff
from animora_server.errors import ConfigurationError
from animora_server.observability.aggregation import collect_metrics, merge_metrics
from animora_server.observability.instruments import Counter
from animora_server.observability.metrics import WorkerMetrics
from animora_server.workers.supervisor import RestartPolicy, Supervisor
from tests.support.until import HANG_TIMEOUT, until

POLICY = RestartPolicy(
    check_interval=0.01,
    hang_timeout=0.05,
    backoff=Backoff(first=0.001, longest=math.inf),
    max_failures=3,
    scrape_timeout=0.05,
)
KILLED = -9


class FakeWorker:
    """One run of a worker that does what the test says."""

    def __init__(self, number, *, drains=True):
        self.number = number
        self.name = str(number)
        self.pid = 0
        self.report = ()
        self.unready: str | None = "starting"
        self.served_at: float | None = None
        self.config_error = None
        self.hung = False
        self.healthy = True
        self._drains = drains
        self._missed = 0
        self._status = asyncio.get_running_loop().create_future()

    def serve(self, *, since=0.0):
        self.unready, self.served_at = None, time.monotonic() - since

    def end(self, status):
        if not self._status.done():
            self._status.set_result(status)

    async def wait(self):
        return await self._status

    def stop(self):
        if self._drains:
            self.end(0)

    def kill(self):
        self.end(KILLED)

    def check(self):
        self._missed = 0 if self.healthy else self._missed + 1
        return self._missed

    async def refresh_metrics(self, timeout):
        if not self.healthy:
            await asyncio.sleep(timeout)


class SupervisorHarness:
    """A supervisor and the runs that it has started."""

    def __init__(self, count, policy=POLICY, start=None, **behaviour):
        self.registry = CollectorRegistry()
        self.stopping = asyncio.Event()
        self.runs: asyncio.Queue[FakeWorker] = asyncio.Queue()
        self._behaviour = behaviour
        metrics = WorkerMetrics(self.registry)
        self.supervisor = Supervisor(count, start or self._start, 0.05, metrics, policy, self.stopping)

    async def next(self):
        async with asyncio.timeout(HANG_TIMEOUT):
            return await self.runs.get()

    def restarts(self, why):
        return self.registry.get_sample_value("animora_worker_restarts_total", {"why": why})

    async def _start(self, number):
        run = FakeWorker(number, **self._behaviour)
        self.runs.put_nowait(run)
        return run


@asynccontextmanager
async def running(harness):
    task = asyncio.create_task(harness.supervisor.run())
    try:
        yield task
    finally:
        harness.stopping.set()
        await asyncio.wait((task,), timeout=10)
        assert task.done()


async def test_the_supervisor_is_ready_while_at_least_one_worker_serves():
    harness = SupervisorHarness(2)
    async with running(harness):
        one, other = await harness.next(), await harness.next()
        assert harness.supervisor.unready() == "no worker serves: starting"
        one.serve()
        assert harness.supervisor.unready() is None
        assert harness.registry.get_sample_value("animora_workers_serving") == 1
        other.serve()
        assert harness.registry.get_sample_value("animora_workers_serving") == 2
        harness.stopping.set()
        assert harness.supervisor.unready() == "draining"


async def test_a_worker_that_ends_is_restarted_under_its_number():
    harness = SupervisorHarness(2)
    async with running(harness):
        await harness.next()
        other = await harness.next()
        other.end(1)
        assert (await harness.next()).number == other.number
    assert harness.restarts("failed") == 1


@pytest.mark.failure(27)
async def test_a_worker_that_hangs_is_killed_and_restarted():
    harness = SupervisorHarness(1)
    async with running(harness):
        run = await harness.next()
        run.serve()
        run.healthy = False
        assert (await harness.next()).number == 1
    assert run.hung
    assert harness.restarts("hung") == 1


@pytest.mark.failure(27)
async def test_the_supervisor_gives_up_after_repeated_failures_of_a_worker():
    harness = SupervisorHarness(2)
    async with running(harness) as task:
        healthy = await harness.next()
        run = await harness.next()
        for _ in range(POLICY.max_failures - 1):
            run.end(1)
            run = await harness.next()
            assert run.number != healthy.number
        run.end(1)
        assert await task == 1
    assert harness.runs.empty()


async def test_a_stable_worker_resets_the_row_of_failures():
    harness = SupervisorHarness(1)
    async with running(harness) as task:
        for _ in range(3 * POLICY.max_failures):
            run = await harness.next()
            run.serve(since=POLICY.stable_after)
            run.end(1)
        await harness.next()
        assert not task.done()


async def test_a_worker_stopped_from_outside_is_always_replaced():
    harness = SupervisorHarness(1)
    async with running(harness) as task:
        for _ in range(3 * POLICY.max_failures):
            (await harness.next()).end(0)
        await harness.next()
        assert not task.done()
    assert harness.restarts("stopped") == 3 * POLICY.max_failures


async def test_an_invalid_option_ends_all_workers_if_none_has_served():
    harness = SupervisorHarness(2)
    async with running(harness) as task:
        run = await harness.next()
        run.config_error = "grpc.port: is taken"
        run.end(2)
        with pytest.raises(ConfigurationError, match=r"grpc\.port: is taken"):
            await task


async def test_an_invalid_option_later_does_not_end_serving_workers():
    harness = SupervisorHarness(2)
    async with running(harness) as task:
        one, other = await harness.next(), await harness.next()
        one.serve()
        other.config_error = "grpc.tls_key: cannot read"
        other.end(2)
        assert (await harness.next()).number == other.number
        assert not task.done()


@pytest.mark.failure(26)
async def test_a_worker_that_does_not_drain_is_killed_and_the_exit_status_is_1():
    harness = SupervisorHarness(1, drains=False)
    async with running(harness) as task:
        await harness.next()
        harness.stopping.set()
        assert await task == 1


async def test_the_exit_status_is_0_when_all_workers_drain():
    harness = SupervisorHarness(3)
    async with running(harness) as task:
        for _ in range(3):
            await harness.next()
        harness.stopping.set()
        assert await task == 0


async def test_a_worker_that_cannot_be_started_is_retried_a_limited_number_of_times():
    async def fails(number):
        raise BlockingIOError(11, "no process left")

    harness = SupervisorHarness(1, start=fails)
    async with running(harness) as task:
        assert await task == 1


async def test_merged_metrics_include_ended_workers_and_workers_that_hang():
    harness = SupervisorHarness(2, replace(POLICY, hang_timeout=60))
    async with running(harness):
        one, other = await harness.next(), await harness.next()
        one.report, other.report = calls(3), calls(4)
        assert await total(harness) == 7
        one.end(1)
        restarted = await harness.next()
        assert await total(harness) == 7
        restarted.report = calls(2)
        other.healthy = False
        assert await total(harness) == 9


def calls(number):
    registry = CollectorRegistry()
    Counter("calls", "Calls.", registry).labels().inc(number)
    return collect_metrics(registry)


async def total(harness):
    (family,) = merge_metrics(await harness.supervisor.reports())
    return sum(family.samples.values())


async def test_the_process_is_dead_when_a_loop_that_it_needs_has_ended():
    class Ended(BaseException):
        """No error that a loop outlives."""

    async def end():
        raise Ended

    async def start(number):
        return FakeWorker(number)

    supervisor = Supervisor(1, start, 1, WorkerMetrics(CollectorRegistry()), POLICY, asyncio.Event())
    loop = BackgroundLoop("token-reload", end)
    supervisor.watch(loop)
    assert supervisor.dead() is None
    loop.start()
    await until(lambda: supervisor.dead() == "background task token-reload ended")
