"""Keeps workers: starts them, starts them again, ends them, and knows how they are."""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog

from animora_server.background import BackgroundLoop, Liveness
from animora_server.errors import ConfigurationError
from animora_server.observability.aggregation import Report, lasting, together
from animora_server.observability.metrics import DeviceProcessMetrics, WorkerMetrics
from animora_server.workers.restart_policy import RestartPolicy
from animora_server.workers.worker import Worker

log = structlog.get_logger(__name__)


class Supervisor:
    """Keeps so many workers until they are to stop.

    Args:
        count: How many.
        start: Starts the one of a number, from 1.
        drain_within: Seconds in which a worker that is told to stop must have ended.
        metrics: What is recorded.
        patience: With workers that end or hang.
        stopping: Set when they are to stop; set here where there is no use in going on.
    """

    def __init__(
        self,
        count: int,
        start: Callable[[int], Awaitable[Worker]],
        drain_within: float,
        metrics: WorkerMetrics | DeviceProcessMetrics,
        patience: RestartPolicy,
        stopping: asyncio.Event,
    ) -> None:
        self._count = count
        self._start = start
        self._drain_within = drain_within
        self._metrics = metrics
        self._patience = patience
        self._workers: dict[int, Worker] = {}
        self._past: Report = ()  # of workers that have ended
        self._stopping = stopping
        self._failure: ConfigurationError | None = None
        self._status = 0
        self._served = False
        self.loop = BackgroundLoop("worker-watch", self._look)
        self._liveness = Liveness(self.loop)
        metrics.serving.set_function(lambda: self.serving)

    @property
    def serving(self) -> int:
        """How many workers answer calls."""
        return sum(worker.unready is None for worker in list(self._workers.values()))

    def unready(self) -> str | None:
        """Why no worker answers calls, or None. Called from the probes' thread."""
        if self._stopping.is_set():
            return "draining"
        if self.serving:
            return None
        why_not = {worker.unready for worker in list(self._workers.values())} - {None}
        return f"no worker answers calls: {', '.join(sorted(map(str, why_not))) or 'none has started'}"

    def dead(self) -> str | None:
        """Why this process should be restarted, or None. Called from the probes' thread."""
        return self._liveness.dead()

    def stop(self) -> None:
        """Tells all to stop."""
        self._stopping.set()

    async def reports(self) -> list[Report]:
        """The metrics of all workers that there are and were; of one that hangs, as they were last known."""
        workers = list(self._workers.values())
        await asyncio.gather(*(worker.refresh(self._patience.scrape_timeout) for worker in workers))
        # One may have ended meanwhile, and be among the past ones now.
        return [self._past, *(worker.report for worker in self._workers.values())]

    async def run(self) -> int:
        """Keeps the workers until they are to stop, then drains them.

        Returns:
            The process' exit status: 1 where workers end again and again, or one did not drain.

        Raises:
            ConfigurationError: An option is wrong, by what the first workers say.
        """
        self.loop.start()
        try:
            await asyncio.gather(*(self._keep(number) for number in range(1, self._count + 1)))
        finally:
            await self.loop.stop()
        if self._failure is not None:
            raise self._failure
        return self._status

    async def _keep(self, number: int) -> None:
        """Has a worker of this number run, until all are to stop."""
        ends = 0
        while not self._stopping.is_set():
            proven = await self._one_run(number)
            ends = 0 if proven else ends + 1
            if self._stopping.is_set():
                return
            if ends >= self._patience.most_ends:
                log.critical("workers end again and again; this process ends too", worker=number, ends=ends)
                self._status = 1
                self._stopping.set()
                return
            if ends:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._patience.delay(ends)):
                        await self._stopping.wait()

    async def _one_run(self, number: int) -> bool:
        """Starts a worker and waits for its end. Returns whether there was nothing wrong with it."""
        try:
            worker = self._workers[number] = await self._start(number)
        except OSError as error:
            log.error("a worker cannot be started", worker=number, error=error.strerror)
            return False
        ended = asyncio.create_task(worker.ended())
        told = asyncio.create_task(self._stopping.wait())
        await asyncio.wait((ended, told), return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            worker.stop()
            await asyncio.wait((ended,), timeout=self._drain_within)
            if not ended.done():
                log.error("a worker does not drain", worker=number, pid=worker.pid)
                worker.kill()
        told.cancel()
        status = await ended
        del self._workers[number]
        self._past = together((self._past, lasting(worker.report)))
        self._served = self._served or worker.served_at is not None
        if self._stopping.is_set():
            self._status = self._status or int(status not in {0, -signal.SIGTERM})
            return True
        return self._judge(worker, status)

    def _judge(self, worker: Worker, status: int) -> bool:
        """What to think of a worker that ended by itself: whether there was nothing wrong with it."""
        if worker.refused is not None and not self._served and not self.serving:
            self._failure = ConfigurationError(worker.refused)
            self._stopping.set()
            return False
        if status == 0:
            self._metrics.restarts["stopped"].inc()
            log.info("a worker was stopped by someone else", worker=worker.name, pid=worker.pid)
            return True
        self._metrics.restarts["hung" if worker.hung else "failed"].inc()
        log.error("a worker failed", worker=worker.name, pid=worker.pid, status=status, why=worker.refused)
        served_at = worker.served_at
        return served_at is not None and time.monotonic() - served_at >= self._patience.proven_after

    async def _look(self) -> float:
        """Asks the workers how they are, and ends those that hang."""
        for worker in list(self._workers.values()):
            silent = worker.look() * self._patience.look_interval
            if silent >= self._patience.hang_timeout and not worker.hung:
                log.error("a worker hangs", worker=worker.name, pid=worker.pid, seconds=silent)
                worker.hung = True
                worker.kill()
        return self._patience.look_interval
