"""What a batch will cost: a fixed and a per-row time, times a learned factor that no stall can latch."""

import math


class CostModel:
    """Estimates the time of a batch, cautiously.

    The estimate is `inflation * (fixed + per_row * rows)`. Calibration measures the two times; running
    batches move the inflation towards the 0.9 quantile of observed over calibrated time (a step up
    where a batch took longer than estimated, a ninth of it down where not: stochastic approximation
    of a quantile). It is bounded, and halves its distance to 1 in every idle second.
    """

    STEP = 0.2
    QUANTILE = 0.9
    BOUNDS = (0.25, 16.0)

    def __init__(self, fixed: float = 300e-6, per_row: float = 0.5e-6) -> None:
        self._fixed = fixed
        self._per_row = per_row
        self._inflation = 1.0
        self._observed_at = -math.inf

    def calibrate(self, fixed: float, per_row: float) -> None:
        """Takes measured times, in seconds, of a batch and of each of its rows."""
        self._fixed = max(fixed, 1e-6)
        self._per_row = max(per_row, 1e-9)
        self._inflation = 1.0

    def estimate(self, rows: int, batches: int, now: float) -> float:
        """Seconds that `rows` in `batches` will take."""
        return self._decayed(now) * (self._fixed * batches + self._per_row * rows)

    def observe(self, rows: int, seconds: float, now: float) -> None:
        """Learns from a batch that ran."""
        inflation = self._decayed(now)
        if seconds > inflation * (self._fixed + self._per_row * rows):
            inflation *= 1 + self.STEP * self.QUANTILE
        else:
            inflation *= 1 - self.STEP * (1 - self.QUANTILE)
        low, high = self.BOUNDS
        self._inflation = min(max(inflation, low), high)
        self._observed_at = now

    def _decayed(self, now: float) -> float:
        idle = now - self._observed_at
        return 1 + (self._inflation - 1) * 0.5**idle if idle > 0 else self._inflation
