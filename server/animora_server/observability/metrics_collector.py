"""The metrics of all processes together, for the page that Prometheus scrapes."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from animora_server.observability.aggregation import Report, metrics, of_process, taken, together

PARENT = "parent"  # in place of a worker's number
LOOP_PATIENCE = 5.0  # seconds for this process' event loop, beyond what it waits for workers


class MetricsCollector(Collector):
    """Asks for the workers' metrics at each scrape, and adds this process' own.

    Args:
        own: This process' metrics.
        reports: Gives the workers' in bounded time, on the event loop at hand.
        within: The bound, in seconds.
    """

    def __init__(
        self,
        own: CollectorRegistry,
        reports: Callable[[], Awaitable[Sequence[Report]]],
        within: float,
    ) -> None:
        self._own = own
        self._reports = reports
        self._patience = within + LOOP_PATIENCE
        self._loop = asyncio.get_running_loop()

    def collect(self) -> Iterator[Metric]:
        """All metrics as they are now; called on the thread of a scrape.

        Raises:
            TimeoutError: The event loop stands still.
        """

        async def ask() -> Sequence[Report]:
            return await self._reports()

        asked = asyncio.run_coroutine_threadsafe(ask(), self._loop)
        reports = asked.result(self._patience)
        return metrics(together((of_process(taken(self._own), PARENT), *reports)))
