"""The interface through which a batcher reports to metrics."""

from typing import Protocol


class BatchObserver(Protocol):
    """Receives the events of a batcher."""

    def skipped(self, reason: str) -> None:
        """Work was not executed: "cancelled", "expired" or "refused"."""
        ...

    def executed(self, rows: int, works: int, seconds: float) -> None:
        """A batch of `rows` rows and `works` pieces of work took `seconds`."""
        ...

    def faulted(self) -> None:
        """A batch failed with a device fault."""
        ...

    def waited(self, seconds: float) -> None:
        """Work entered a batch after `seconds` in the queue."""
        ...
