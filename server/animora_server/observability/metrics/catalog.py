"""The catalog: its size, its age, its refreshes, and notifications from the database."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry

from animora_database.views import VIEWS
from animora_server.observability.instruments import Counter, Gauge, Histogram, MultiprocessMode


class CatalogMetrics:
    """Recorded by the catalog sync at each refresh, and by the listener."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.posts = Gauge(
            "animora_catalog_posts", "Posts that can be ranked.", MultiprocessMode.MAX, registry
        ).labels()
        self.bytes = Gauge(
            "animora_catalog_bytes",
            "Memory of the catalog, without embeddings.",
            MultiprocessMode.SUM,
            registry,
        ).labels()
        self.epoch = Gauge(
            "animora_catalog_epoch",
            "Number of times all rows were reassigned.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        refreshes = Counter("animora_catalog_refreshes", "Refreshes, by outcome.", registry, ("outcome",))
        self.refreshes = {outcome: refreshes.labels(outcome) for outcome in ("ok", "error")}
        self.refresh_seconds = Histogram(
            "animora_catalog_refresh_seconds", "Duration of a refresh.",
            (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60), registry,
        ).labels()  # fmt: skip
        left_out = Gauge(
            "animora_catalog_left_out_rows",
            "Rows of a view that were ignored at the last reconcile, by reason.",
            MultiprocessMode.MAX,
            registry,
            ("view", "reason"),
        )
        self.left_out = {
            (view, reason): left_out.labels(view, reason)
            for view, reason in [
                *((view.name, reason) for view in VIEWS for reason in view.conditions),
                ("posts", "duplicate"),
            ]
        }
        unusable = Gauge(
            "animora_catalog_unusable_embeddings",
            "Embeddings treated as absent: of another width than the catalog's, or not finite.",
            MultiprocessMode.MAX,
            registry,
            ("column",),
        )
        self.unusable_embeddings = {column: unusable.labels(column) for column in ("image", "caption")}
        self._age = Gauge(
            "animora_catalog_age_seconds", "Time since the last successful refresh; +Inf before the first.",
            MultiprocessMode.MAX, registry,
        ).labels()  # fmt: skip
        self._block_age = Gauge(
            "animora_blocks_age_seconds", "Time since the blocks were last read; +Inf before the first.",
            MultiprocessMode.MAX, registry,
        ).labels()  # fmt: skip

        self.hiding_tables = Gauge(
            "animora_catalog_hiding_tables",
            "Tables under the views whose row-level security hides rows, at the last reconcile.",
            MultiprocessMode.MAX,
            registry,
        ).labels()
        self.listening = Gauge(
            "animora_catalog_listening", "1 while LISTEN works: blocks and deletions take effect at commit.",
            MultiprocessMode.MIN, registry,
        ).labels()  # fmt: skip
        notifications = Counter(
            "animora_catalog_notifications",
            "Notifications from the database, by kind; dropped: arrived too fast to be applied.",
            registry,
            ("kind",),
        )
        self.notifications = {
            kind: notifications.labels(kind)
            for kind in ("block", "unblock", "delete", "unreadable", "dropped")
        }

    def age_from(self, age: Callable[[], float]) -> None:
        """Sets the function that returns the catalog's age in seconds; called at each scrape."""
        self._age.set_function(age)

    def block_age_from(self, age: Callable[[], float]) -> None:
        """Sets the function that returns the age of the blocks in seconds; called at each scrape."""
        self._block_age.set_function(age)
