"""The trial of a newly activated version: it stays within its bands, or it is rolled back."""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from animora_server.rollout_names import Band
from animora_server.settings import RollbackSettings
from animora_server.types import FloatArray

# A request that is answered too late, or refused by a full queue, is the version's fault only if the version
# is slower than the one before by this factor. Else an overload would be taken for a fault of the version.
LATE_SLOWDOWN = 1.5
MIN_COMPARISONS = 30  # for a median of times, and for a distribution of scores
MIN_SCORES = 300  # for a distribution of scores: a tenth of them is 30
MAX_COMPARISONS = 256  # that are kept, the latest ones
SCORES_PER_COMPARISON = 64  # evenly spaced posts of a request
SHIFT_INTERVAL = 8  # comparisons between two computations of the shift
BINS = 10  # of the population stability index; each holds a tenth of the earlier version's scores


@dataclass(frozen=True, slots=True)
class Breach:
    """A band that a version has left.

    Attributes:
        band: The band.
        detail: What was seen, and what is allowed.
    """

    band: Band
    detail: str


class VersionTrial:
    """Decides by what was observed whether a version has left a band. No I/O, no clock but the caller's.

    Args:
        bands: The section `rollback`.
        began: When the version became active, on the clock of `is_over`.
    """

    def __init__(self, bands: RollbackSettings, began: float) -> None:
        self._bands = bands
        self._ends = began + bands.window
        self._scored = 0
        self._late = 0
        self._failed = {Band.ERRORS: 0, Band.INVALID_SCORES: 0}
        self._slowdowns: deque[float] = deque(maxlen=MAX_COMPARISONS)
        self._new: deque[FloatArray] = deque(maxlen=MAX_COMPARISONS)
        self._earlier: deque[FloatArray] = deque(maxlen=MAX_COMPARISONS)
        self._compared = 0
        self.score_shift = math.nan

    @property
    def slowdown(self) -> float:
        """The median of times on the device over those of the earlier version; NaN before the first one."""
        return float(np.median(self._slowdowns)) if self._slowdowns else math.nan

    def is_over(self, now: float) -> bool:
        """Whether the window has passed."""
        return now >= self._ends

    def scored(self, requests: int) -> None:
        """Records requests that the version has answered, or failed as the earlier version did."""
        self._scored += requests

    def failed(self, band: Band, requests: int = 1) -> None:
        """Records requests that the version has failed, and the earlier version has not.

        Args:
            band: ERRORS, or INVALID_SCORES.
            requests: How many.
        """
        self._failed[band] += requests

    def late(self, requests: int) -> None:
        """Records requests that the version could not answer in time, or that a full queue refused."""
        self._late += requests

    def timed(self, seconds: float, earlier_seconds: float) -> None:
        """Records the times on the device of both versions for one request."""
        self._slowdowns.append(seconds / max(earlier_seconds, 1e-9))

    def compared(self, values: FloatArray, earlier_values: FloatArray) -> None:
        """Records the logits float32 (m) of both versions for one request."""
        step = -(-len(values) // SCORES_PER_COMPARISON) or 1
        self._new.append(values[::step])
        self._earlier.append(earlier_values[::step])
        self._compared += 1
        if self._compared >= MIN_COMPARISONS and self._compared % SHIFT_INTERVAL == 0:
            new, earlier = np.concatenate(self._new), np.concatenate(self._earlier)
            if len(new) >= MIN_SCORES:
                self.score_shift = population_stability(earlier, new)

    def breach(self) -> Breach | None:
        """The band that the version has left, or None."""
        bands = self._bands
        rates = {
            Band.ERRORS: (self._errors(), bands.max_error_rate, "failed"),
            Band.INVALID_SCORES: (
                self._failed[Band.INVALID_SCORES],
                bands.max_invalid_rate,
                "have scores that are not finite",
            ),
        }
        total = self._scored + self._late + sum(self._failed.values())
        for band, (failed, allowed, what) in rates.items():
            if failed > allowed * max(total, bands.min_requests):
                return Breach(band, f"{failed} of {total} requests {what}; allowed is a share of {allowed:g}")
        if bands.max_slowdown and self._exceeds(bands.max_slowdown):
            return Breach(
                Band.SLOWDOWN,
                f"a request takes {self.slowdown:.2f} times as long on the device; allowed is "
                f"{bands.max_slowdown:g}",
            )
        if bands.max_score_shift and self.score_shift > bands.max_score_shift:
            return Breach(
                Band.SCORE_SHIFT,
                f"the population stability index of the scores is {self.score_shift:.3f}; allowed is "
                f"{bands.max_score_shift:g}",
            )
        return None

    def _errors(self) -> int:
        return self._failed[Band.ERRORS] + (self._late if self._exceeds(LATE_SLOWDOWN) else 0)

    def _exceeds(self, slowdown: float) -> bool:
        return len(self._slowdowns) >= MIN_COMPARISONS and self.slowdown > slowdown


def population_stability(expected: FloatArray, actual: FloatArray) -> float:
    """The population stability index of two samples: 0 for one distribution, about 0.25 for a large shift.

    Args:
        expected: float32 (n), whose quantiles are the bins.
        actual: float32 (m).
    """
    edges = np.quantile(expected, np.linspace(0, 1, BINS + 1)[1:-1])
    shares = []
    for sample in (expected, actual):
        counts = np.bincount(edges.searchsorted(sample), minlength=BINS)
        shares.append(np.maximum(counts, 0.5) / len(sample))  # an empty bin has no logarithm
    expected_share, actual_share = shares
    return float(np.sum((actual_share - expected_share) * np.log(actual_share / expected_share)))
