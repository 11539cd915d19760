"""The circuit breaker of Redis."""


class CircuitBreaker:
    """Opens after `threshold` failures in a row. Only `close` closes it, after a probe outside of requests.

    It has no clock and starts no task.
    """

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._failures = 0
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether Redis must not be used. True until the first `close`."""
        return self._is_open

    def succeeded(self) -> None:
        """Records a success. It does not close an open breaker, since the call may have begun before."""
        self._failures = 0

    def failed(self) -> bool:
        """Records a failure. Returns whether it opened the breaker."""
        self._failures += 1
        opens = not self._is_open and self._failures >= self._threshold
        self._is_open = self._is_open or opens
        return opens

    def open(self) -> None:
        """Opens the breaker."""
        self._is_open = True

    def close(self) -> None:
        """Closes the breaker after a successful probe."""
        self._failures = 0
        self._is_open = False
