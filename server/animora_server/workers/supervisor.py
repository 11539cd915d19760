"""Starts, checks, restarts and drains workers."""

import asyncio
import math
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from animora_server.background import BackgroundLoop, Backoff, Liveness
from animora_server.errors import ConfigurationError
from animora_server.observability.aggregation import MetricsReport, cumulative_metrics, merge_metrics
from animora_server.observability.metrics import DeviceProcessMetrics, WorkerMetrics
from animora_server.workers.worker import Worker

log = structlog.get_logger(__name__)

RESTART_BACKOFF = Backoff(first=0.5, longest=math.inf)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When workers are checked, killed and restarted. Times in seconds.

    Attributes:
        check_interval: Between two health checks of a worker.
        hang_timeout: A worker that is unhealthy for this long is killed.
        backoff: The pauses before restarts of a worker that fails.
        stable_after: A worker that has served for this long resets its row of failures.
        max_failures: Failures in a row after which no worker is restarted any more.
        scrape_timeout: A worker that does not send its metrics in this time is shown with its last ones.
    """

    check_interval: float = 0.25
    hang_timeout: float = 30.0
    backoff: Backoff = RESTART_BACKOFF
    stable_after: float = 60.0
    max_failures: int = 5
    scrape_timeout: float = 1.0


class Supervisor:
    """Keeps a number of workers running until it is stopped.

    Args:
        count: The number of workers.
        start: Starts the worker of a number, from 1.
        drain_within: Seconds in which a stopped worker must have ended, or it is killed.
        metrics: Records restarts and serving workers.
        policy: When workers are checked, killed and restarted.
        stopping: Stops the workers when it is set. The supervisor sets it when it gives up.
    """

    def __init__(
        self,
        count: int,
        start: Callable[[int], Awaitable[Worker]],
        drain_within: float,
        metrics: WorkerMetrics | DeviceProcessMetrics,
        policy: RestartPolicy,
        stopping: asyncio.Event,
    ) -> None:
        self._count = count
        self._start = start
        self._drain_within = drain_within
        self._metrics = metrics
        self._policy = policy
        self._workers: dict[int, Worker] = {}
        self._ended_metrics: MetricsReport = ()  # counters of workers that have ended
        self._stopping = stopping
        self._failure: ConfigurationError | None = None
        self._exit_status = 0
        self._served = False
        self.loop = BackgroundLoop("worker-watch", self._check_workers)
        self._liveness = Liveness(self.loop)
        metrics.serving.set_function(lambda: self.serving)

    @property
    def serving(self) -> int:
        """The number of workers that serve."""
        return sum(worker.unready is None for worker in list(self._workers.values()))

    def unready(self) -> str | None:
        """Why no worker serves, or None if one does. Called from the probes' thread."""
        if self._stopping.is_set():
            return "draining"
        if self.serving:
            return None
        reasons = {worker.unready for worker in list(self._workers.values())} - {None}
        return f"no worker serves: {', '.join(sorted(map(str, reasons))) or 'none has started'}"

    def watch(self, loop: BackgroundLoop) -> None:
        """Adds a loop that this process cannot do without."""
        self._liveness.watch(loop)

    def dead(self) -> str | None:
        """Why this process should be restarted, or None. Called from the probes' thread."""
        return self._liveness.dead()

    def stop(self) -> None:
        """Stops all workers; `run` returns when they have drained."""
        self._stopping.set()

    async def reports(self) -> list[MetricsReport]:
        """The metrics of running and ended workers; of a worker that hangs, its last known ones."""
        workers = list(self._workers.values())
        await asyncio.gather(*(worker.refresh_metrics(self._policy.scrape_timeout) for worker in workers))
        # Read again: a worker may have ended meanwhile, and count among the ended ones.
        return [self._ended_metrics, *(worker.report for worker in self._workers.values())]

    async def run(self) -> int:
        """Keeps the workers running until it is stopped, then drains them.

        Returns:
            The exit status: 1 if the restarts of a worker are exhausted or one did not drain, else 0.

        Raises:
            ConfigurationError: A worker reported an invalid option before any has served.
        """
        self.loop.start()
        try:
            await asyncio.gather(*(self._keep_running(number) for number in range(1, self._count + 1)))
        finally:
            await self.loop.stop()
        if self._failure is not None:
            raise self._failure
        return self._exit_status

    async def _keep_running(self, number: int) -> None:
        """Runs the worker of a number again and again, until the supervisor is stopped."""
        failures = 0
        while not self._stopping.is_set():
            stable = await self._run_once(number)
            failures = 0 if stable else failures + 1
            if self._stopping.is_set():
                return
            if failures >= self._policy.max_failures:
                log.critical("worker restarts exhausted; shutting down", worker=number, ends=failures)
                self._exit_status = 1
                self._stopping.set()
                return
            if failures:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._policy.backoff.delay(failures)):
                        await self._stopping.wait()

    async def _run_once(self, number: int) -> bool:
        """Starts a worker and waits until it ends. Returns whether that resets its row of failures."""
        try:
            worker = self._workers[number] = await self._start(number)
        except OSError as error:
            log.error("worker cannot be started", worker=number, error=error.strerror)
            return False
        wait = asyncio.create_task(worker.wait())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((wait, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not wait.done():
            worker.stop()
            await asyncio.wait((wait,), timeout=self._drain_within)
            if not wait.done():
                log.error("worker did not drain in time; killing it", worker=number, pid=worker.pid)
                worker.kill()
        stopping.cancel()
        status = await wait
        del self._workers[number]
        self._ended_metrics = merge_metrics((self._ended_metrics, cumulative_metrics(worker.report)))
        self._served = self._served or worker.served_at is not None
        if self._stopping.is_set():
            self._exit_status = self._exit_status or int(status not in {0, -signal.SIGTERM})
            return True
        return self._handle_exit(worker, status)

    def _handle_exit(self, worker: Worker, status: int) -> bool:
        """Records an unexpected end of a worker. Returns whether it resets the row of failures."""
        if worker.config_error is not None and not self._served and not self.serving:
            self._failure = ConfigurationError(worker.config_error)
            self._stopping.set()
            return False
        if status == 0:
            self._metrics.restarts["stopped"].inc()
            log.info("worker stopped from outside", worker=worker.name, pid=worker.pid)
            return True
        self._metrics.restarts["hung" if worker.hung else "failed"].inc()
        log.error("worker failed", worker=worker.name, pid=worker.pid, status=status, why=worker.config_error)
        served_at = worker.served_at
        return served_at is not None and time.monotonic() - served_at >= self._policy.stable_after

    async def _check_workers(self) -> float:
        """Checks the health of all workers, and kills those that hang."""
        for worker in list(self._workers.values()):
            silent = worker.check() * self._policy.check_interval
            if silent >= self._policy.hang_timeout and not worker.hung:
                log.error("worker hangs; killing it", worker=worker.name, pid=worker.pid, seconds=silent)
                worker.hung = True
                worker.kill()
        return self._policy.check_interval
