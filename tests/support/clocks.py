"""Clocks that stand still until a test moves them."""

from dataclasses import dataclass


@dataclass
class ManualClock:
    """Returns `now`, in seconds, which a test sets."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now
