"""Pages of timelines, and the lists that they are cut from."""

from prometheus_client import CollectorRegistry

from animora_server.observability.instruments import Counter
from animora_server.types import CacheStatus


class TimelineMetrics:
    """Recorded once a page, and once a renewal."""

    def __init__(self, registry: CollectorRegistry) -> None:
        pages = Counter(
            "animora_timeline_pages", "Pages, by the source of their timeline.", registry, ("cache",)
        )
        refreshes = Counter(
            "animora_timeline_refreshes",
            "Timelines rebuilt while the one before was served.",
            registry,
            ("why",),
        )
        self.pages = {status: pages.labels(status.value) for status in CacheStatus}
        self._refreshes = {
            why: refreshes.labels(why) for why in ("early", "stale", "newer", "restart", "degraded")
        }

    def refreshed(self, why: str) -> None:
        """A list is made while another is served: "early", "stale", "newer", "restart" or "degraded"."""
        self._refreshes[why].inc()
