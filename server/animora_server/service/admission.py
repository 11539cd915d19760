"""Admission control: bounds the calls and candidates in flight; above the bounds a call is refused."""

from types import TracebackType

from animora_server.errors import TooManyRequests

RETRY_AFTER = 0.1  # seconds


class AdmissionController:
    """Counts the calls and candidates in flight. Health checks are not counted.

    Args:
        max_calls: The most calls in flight.
        max_rows: The most candidates in flight; a single larger request is admitted when nothing is in
            flight.

    Attributes:
        calls: How many calls are in flight.
        rows: How many candidates are in flight.
    """

    def __init__(self, max_calls: int, max_rows: int) -> None:
        self._max_calls = max_calls
        self._max_rows = max_rows
        self.calls = 0
        self.rows = 0

    def admit_call(self) -> "AdmissionPermit":
        """Admits a call for the length of a `with` block; entering it raises TooManyRequests."""
        return AdmissionPermit(self, 1, 0)

    def admit_rows(self, rows: int) -> "AdmissionPermit":
        """Admits candidates for the length of a `with` block; entering it raises TooManyRequests."""
        return AdmissionPermit(self, 0, rows)

    def acquire(self, calls: int, rows: int) -> None:
        """Adds to the calls and candidates in flight.

        Raises:
            TooManyRequests: A bound would be exceeded.
        """
        too_many_calls = calls and self.calls + calls > self._max_calls
        too_many_rows = rows and self.rows and self.rows + rows > self._max_rows
        if too_many_calls or too_many_rows:
            raise TooManyRequests(RETRY_AFTER)
        self.calls += calls
        self.rows += rows

    def release(self, calls: int, rows: int) -> None:
        """Subtracts from the calls and candidates in flight."""
        self.calls -= calls
        self.rows -= rows


class AdmissionPermit:
    """Counts work as in flight during its `with` block. A generator would cost three times as much."""

    __slots__ = ("_admission", "_calls", "_rows")

    def __init__(self, admission: AdmissionController, calls: int, rows: int) -> None:
        self._admission = admission
        self._calls = calls
        self._rows = rows

    def __enter__(self) -> None:
        self._admission.acquire(self._calls, self._rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.release(self._calls, self._rows)
