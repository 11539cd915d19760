"""Collects the merged metrics of supervisor and workers at each scrape."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from animora_server.observability.aggregation import (
    MetricsReport,
    collect_metrics,
    label_process,
    merge_metrics,
    to_prometheus,
)

PARENT = "parent"  # the supervisor's value of the label `worker`
LOOP_TIMEOUT = 5.0  # seconds for the event loop, on top of the timeout for workers


class MetricsCollector(Collector):
    """Requests the workers' metrics at each scrape, and merges them with this process' own.

    Args:
        own: This process' metrics.
        reports: Returns the workers' metrics; a coroutine function that runs on the current event loop.
        timeout: Seconds that `reports` takes at most.
    """

    def __init__(
        self,
        own: CollectorRegistry,
        reports: Callable[[], Awaitable[Sequence[MetricsReport]]],
        timeout: float,
    ) -> None:
        self._own = own
        self._reports = reports
        self._timeout = timeout + LOOP_TIMEOUT
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterator[Metric]:
        """All current metrics; called on the scrape's thread.

        Raises:
            TimeoutError: The event loop does not run.
        """

        async def request() -> Sequence[MetricsReport]:
            return await self._reports()

        future = asyncio.run_coroutine_threadsafe(request(), self._loop)
        reports = future.result(self._timeout)
        return to_prometheus(merge_metrics((label_process(collect_metrics(self._own), PARENT), *reports)))
