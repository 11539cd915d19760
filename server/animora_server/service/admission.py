"""The request gate: how much may be in flight before a call is refused."""

from types import TracebackType

from animora_server.errors import TooManyRequests

RETRY_AFTER = 0.1  # seconds


class AdmissionController:
    """Counts calls and candidates in flight. Health checks do not pass through it."""

    def __init__(self, max_calls: int, max_rows: int) -> None:
        self._max_calls = max_calls
        self._max_rows = max_rows
        self.calls = 0
        self.rows = 0

    def call(self) -> "AdmissionPermit":
        """Admits a call within a `with` block, which raises Refused if there are too many."""
        return AdmissionPermit(self, 1, 0)

    def work(self, rows: int) -> "AdmissionPermit":
        """Admits candidates within a `with` block, which raises Refused if there are too many.

        While nothing is in flight they are admitted whatever their number.
        """
        return AdmissionPermit(self, 0, rows)

    def enter(self, calls: int, rows: int) -> None:
        """Counts what comes.

        Raises:
            Refused: It is too much.
        """
        too_many_calls = calls and self.calls + calls > self._max_calls
        too_many_rows = rows and self.rows and self.rows + rows > self._max_rows
        if too_many_calls or too_many_rows:
            raise TooManyRequests(RETRY_AFTER)
        self.calls += calls
        self.rows += rows

    def leave(self, calls: int, rows: int) -> None:
        """Counts what goes."""
        self.calls -= calls
        self.rows -= rows


class AdmissionPermit:
    """What is in flight while its `with` block lasts. A generator would cost three times as much."""

    __slots__ = ("_admission", "_calls", "_rows")

    def __init__(self, admission: AdmissionController, calls: int, rows: int) -> None:
        self._admission = admission
        self._calls = calls
        self._rows = rows

    def __enter__(self) -> None:
        self._admission.enter(self._calls, self._rows)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._admission.leave(self._calls, self._rows)
