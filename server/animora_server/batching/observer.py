"""What is told of a queue and its batches."""

from typing import Protocol


class BatchObserver(Protocol):
    """Is told what happens in the queue."""

    def skipped(self, reason: str) -> None:
        """Work left unexecuted: "cancelled", "expired" or "refused"."""
        ...

    def executed(self, rows: int, works: int, seconds: float) -> None:
        """A batch ran."""
        ...

    def faulted(self) -> None:
        """The device failed a batch."""
        ...

    def waited(self, seconds: float) -> None:
        """Work reached its batch."""
        ...
