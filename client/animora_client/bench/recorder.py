"""Records times and outcomes of all calls in compact arrays."""

from array import array
from collections import Counter
from typing import NamedTuple

from animora_client.bench.checking import Verdict


class Timing(NamedTuple):
    """The times of a call, in seconds from the start of the load."""

    intended: float  # the scheduled time
    sent: float
    done: float  # when the outcome was known


class TimeOrigin(NamedTuple):
    """The source of a ranking, as protobuf enum values."""

    ranker: int
    cache: int
    degraded_reason: int
    model_version: str


class CallRecorder:
    """Times and outcomes of all calls, in parallel arrays.

    Attributes:
        warmup: Seconds of warm-up at the start.
        intended: The scheduled time of each call, in seconds from the start.
        sent: When each call was sent.
        done: When the outcome of each call was known.
        outcomes: The outcome of each call, as an index of `outcome_names`.
        rankings: The number of correct rankings of each call.
        origins: Counts of rankings by origin, for calls scheduled after the warm-up.
        unsent: Calls scheduled before the end that were never sent.
        elapsed: Seconds from the start to the end of sending.
    """

    def __init__(self, warmup: float) -> None:
        self.warmup = warmup
        self.intended = array("d")
        self.sent = array("d")
        self.done = array("d")
        self.outcomes = array("H")
        self.rankings = array("H")
        self.origins: Counter[TimeOrigin] = Counter()
        self.unsent = 0
        self.elapsed = 0.0
        self._indices: dict[str, int] = {}

    @property
    def outcome_names(self) -> tuple[str, ...]:
        """The outcomes seen, in order of first appearance."""
        return tuple(self._indices)

    def add(self, timing: Timing, verdict: Verdict) -> None:
        """Records one call."""
        self.intended.append(timing.intended)
        self.sent.append(timing.sent)
        self.done.append(timing.done)
        self.outcomes.append(self._indices.setdefault(verdict.outcome, len(self._indices)))
        self.rankings.append(len(verdict.rankings))
        if timing.intended >= self.warmup:
            for response in verdict.rankings:
                origin = TimeOrigin(
                    response.ranker, response.cache, response.degraded_reason, response.model_version
                )
                self.origins[origin] += 1
