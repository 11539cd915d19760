"""Remembers what became of every call, in little memory."""

from array import array
from collections import Counter
from typing import NamedTuple

from animora_client.bench.checking import Verdict


class Timing(NamedTuple):
    """Three moments of a call, in seconds from the start of the load."""

    intended: float  # when it was meant to be sent
    sent: float
    done: float  # when its outcome was known


class TimeOrigin(NamedTuple):
    """Where a ranking came from, as the wire's numbers."""

    ranker: int
    cache: int
    degraded_reason: int
    model_version: str


class CallRecorder:
    """Times and outcomes of all calls, in parallel lists.

    Attributes:
        warmup: Seconds from the start that do not count.
        intended: Of each call, when it was meant to be sent, in seconds from the start.
        sent: When it was.
        done: When its outcome was known.
        outcomes: Its outcome, as an index of `outcome_names`.
        rankings: How many right rankings it gave.
        origins: The rankings of calls meant to be sent after the warm-up, counted by origin.
        unsent: Calls that were due before the end, but still waited for a slot then.
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
