"""Shadow scoring: a second version scores a sample of the requests, and nobody sees its scores."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from animora_server.background import LoopOwner
from animora_server.errors import InvalidScores, NetworkFailed, ScoringFailed
from animora_server.rollout.sample_queue import SampleQueue
from animora_server.rollout.watched_model import ScoredWork, WatchedModel
from animora_server.scoring.protocols import ScoringModel
from animora_server.scoring.serving_state import ServingState
from animora_server.scoring.transforms import impute_featureless, probabilities
from animora_server.settings import ShadowSettings
from animora_server.types import FloatArray, IntArray

MAX_WAITING = 16  # samples; each holds the scores of a request
TOP = 10  # posts whose overlap is measured


class ShadowCounts(Protocol):
    """Receives the outcome of each sampled request."""

    def sampled(self, outcome: str) -> None:
        """Counts a sample: "scored", "dropped", "unknown_user", "failed" or "invalid_scores"."""
        ...

    def compared(self, overlap: float, shift: float, seconds: float) -> None:
        """Records a scored sample.

        Args:
            overlap: Share of the best posts that both versions have in common.
            shift: Mean of the shadow's probabilities less those of the served version.
            seconds: Time on the device.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Sample:
    """A request that was served.

    Attributes:
        shadow: The version that is to score it too, in the same serving state.
        served: The version that has served it.
        user_id: The user.
        rows: int64 (m), the posts' catalog rows.
        values: float32 (m), the logits of the served version.
    """

    shadow: ScoringModel
    served: ScoringModel
    user_id: int
    rows: IntArray
    values: FloatArray


class ShadowScorer(LoopOwner):
    """Has a second version score a share of what the active version scores, an async context manager.

    It uses the device only while no request waits for it: a sample that finds the device busy is dropped.

    Args:
        settings: The section `shadow`.
        metrics: Receives outcomes.
        is_idle: Whether no request waits for the device.
    """

    def __init__(self, settings: ShadowSettings, metrics: ShadowCounts, is_idle: Callable[[], bool]) -> None:
        self._settings = settings
        self._metrics = metrics
        self._is_idle = is_idle
        self._due = 0.0  # samples; the next request is one when it reaches 1
        self._samples: SampleQueue[_Sample] = SampleQueue("shadow", self._process, MAX_WAITING)
        self.loop = self._samples.loop

    def watch(self, state: ServingState) -> ServingState:
        """The serving state with the active model watched, while the shadow version is resident beside it."""
        active, shadow = state.active, state.resident.get(self._settings.version)
        if not self._settings.share or active is None or shadow is None or shadow.version == active.version:
            return state
        watched = WatchedModel(active, _ShadowObserver(self, active, shadow))
        return state.with_models({active.version: watched})

    def offer(self, served: ScoringModel, shadow: ScoringModel, work: ScoredWork, values: FloatArray) -> None:
        """Samples the requests of a piece of work; values float32 (m) are the served version's logits."""
        self._due += self._settings.share * work.users
        while self._due >= 1:
            self._due -= 1
            position = random.randrange(work.users)
            user_id, posts = work.user_id(position), work.posts(position)
            if user_id is not None and work.sizes[position]:
                sample = _Sample(shadow, served, user_id, work.rows[posts], values[posts])
                if not self._is_idle() or not self._samples.offer(sample):
                    self._metrics.sampled("dropped")

    async def _process(self, sample: _Sample) -> None:
        if not self._is_idle():
            self._metrics.sampled("dropped")
            return
        self._metrics.sampled(await self._score(sample))

    async def _score(self, sample: _Sample) -> str:
        """Scores a sample and records the comparison. Returns the outcome."""
        shadow, rows = sample.shadow, sample.rows
        user_row = shadow.user_row(sample.user_id)
        if not user_row:
            return "unknown_user"
        try:
            values, seconds = await shadow.score_timed(user_row, rows)
            logits = impute_featureless(values, shadow.has_features(rows))
            served = impute_featureless(sample.values, sample.served.has_features(rows))
        except NetworkFailed:
            return "failed"
        except InvalidScores:
            return "invalid_scores"
        except ScoringFailed:
            return "failed"
        shift = float(np.mean(probabilities(logits)) - np.mean(probabilities(served)))
        self._metrics.compared(top_overlap(served, logits), shift, seconds)
        return "scored"


@dataclass(frozen=True, slots=True)
class _ShadowObserver:
    """Samples what the active version scores. See ScoreObserver."""

    scorer: ShadowScorer
    served: ScoringModel
    shadow: ScoringModel

    def scored(self, work: ScoredWork, values: FloatArray) -> None:
        """See ScoreObserver."""
        self.scorer.offer(self.served, self.shadow, work, values)

    def failed(self, work: ScoredWork, error: BaseException) -> None:
        """See ScoreObserver. There is nothing to compare with."""


def top_overlap(served: FloatArray, shadow: FloatArray) -> float:
    """The share of the TOP best posts that two versions have in common, by logits float32 (m), m above 0."""
    count = min(TOP, len(served))
    best, shadow_best = (set(np.argsort(-values)[:count].tolist()) for values in (served, shadow))
    return len(best & shadow_best) / count
