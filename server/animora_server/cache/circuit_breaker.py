"""When to leave Redis alone."""


class CircuitBreaker:
    """Opens after some failures in a row; only a try outside of any request closes it.

    It knows no clock and starts nothing.
    """

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._failures = 0
        self._is_open = True

    @property
    def is_open(self) -> bool:
        """Whether to leave Redis alone. True until the first `close`."""
        return self._is_open

    def succeeded(self) -> None:
        """A use went well. One that began before the breaker opened does not close it."""
        self._failures = 0

    def failed(self) -> bool:
        """A use failed; whether this opened the breaker."""
        self._failures += 1
        opens = not self._is_open and self._failures >= self._threshold
        self._is_open = self._is_open or opens
        return opens

    def open(self) -> None:
        """Opens it whatever happened."""
        self._is_open = True

    def close(self) -> None:
        """A try went well: Redis may be used again."""
        self._failures = 0
        self._is_open = False
