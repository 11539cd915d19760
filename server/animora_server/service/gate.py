"""The request gate: how much may be in flight before a call is refused."""

from collections.abc import Iterator
from contextlib import contextmanager

from animora_server.errors import Refused

RETRY_AFTER = 0.1  # seconds


class Gate:
    """Counts calls and candidates in flight. Health checks do not pass through it."""

    def __init__(self, max_calls: int, max_rows: int) -> None:
        self._max_calls = max_calls
        self._max_rows = max_rows
        self.calls = 0
        self.rows = 0

    @contextmanager
    def call(self) -> Iterator[None]:
        """Admits a call while it lasts.

        Raises:
            Refused: There are too many.
        """
        if self.calls >= self._max_calls:
            raise Refused(RETRY_AFTER)
        self.calls += 1
        try:
            yield
        finally:
            self.calls -= 1

    @contextmanager
    def work(self, rows: int) -> Iterator[None]:
        """Admits candidates while they are ranked; a lone call is admitted whatever its size.

        Raises:
            Refused: There are too many.
        """
        if self.rows and self.rows + rows > self._max_rows:
            raise Refused(RETRY_AFTER)
        self.rows += rows
        try:
            yield
        finally:
            self.rows -= rows
