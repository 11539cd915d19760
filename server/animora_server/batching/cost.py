"""The cost estimate of batches: a fixed and a per-row time, times a learned factor that decays."""

import math


class CostModel:
    """Estimates the time of batches; errs on the high side.

    The estimate is `inflation * (fixed * batches + per_row * rows)`. Calibration measures the two times.
    Executed batches move the inflation towards the 0.9 quantile of observed over calibrated time, by
    stochastic approximation: a step up after a batch that took longer than estimated, a ninth of that step
    down after any other. The inflation is bounded, and halves its distance to 1 in every idle second, so no
    stall raises it for good.

    Args:
        fixed: Seconds a batch, until calibrated.
        per_row: Seconds a row, until calibrated.
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
        """Sets the measured times in seconds: of a batch, and of each row of a batch."""
        self._fixed = max(fixed, 1e-6)
        self._per_row = max(per_row, 1e-9)
        self._inflation = 1.0

    def estimate(self, rows: int, batches: int, now: float) -> float:
        """The estimated seconds of `rows` rows in `batches` batches; `now` is the event loop's clock."""
        return self._decayed(now) * (self._fixed * batches + self._per_row * rows)

    def observe(self, rows: int, seconds: float, now: float) -> None:
        """Updates the inflation after a batch of `rows` rows that took `seconds`."""
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
