"""Ranks the timelines of a chunk of users, in the calling thread."""

import time
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from animora_server.errors import InvalidScores
from animora_server.precompute.rate_limiter import RateLimiter
from animora_server.precompute.scoring import Window, WindowScorer
from animora_server.precompute.summary import RunTotals
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.transforms import impute_featureless
from animora_server.settings import Settings
from animora_server.timeline.eligibility import VisibilityFilter, candidates
from animora_server.timeline.feed_ranker import ScoredCandidates, order_posts
from animora_server.timeline.reranking import Reranking
from animora_server.timeline.store import timeline_key
from animora_server.types import FloatArray, Generation, IntArray, RankedTimeline, RankerName


@dataclass(frozen=True, slots=True)
class RankedChunk:
    """Ranked timelines by key, and the totals of the chunk."""

    timelines: list[tuple[bytes, RankedTimeline]]
    totals: RunTotals


class ChunkRanker:
    """Ranks users' timelines as a first page would, at the generation's time. Thread-safe.

    Args:
        generation: The generation.
        window: The posts that may be candidates.
        scorer: The model; None without one.
        settings: The settings that shape ranked timelines.
        limiter: Rate limit of ranking by the heuristic; the scorer applies it to the model.
    """

    def __init__(
        self,
        generation: Generation,
        window: Window,
        scorer: WindowScorer | None,
        settings: Settings,
        limiter: RateLimiter,
    ) -> None:
        self._generation = generation
        self._catalog = window.snapshot
        self._scorer = scorer
        self._limiter = limiter
        self._settings = settings.timeline
        self._fresh_until = generation.made_at + settings.timeline.precomputed_ttl
        # If another shard began the generation after this run read the posts, later posts are newer posts for
        # these timelines. Otherwise the generation's time holds, so that a resumed run gives the same bytes.
        self._read_at = min(generation.read_at, self._catalog.read_at)
        heuristic = Heuristic.of(settings.ranking)
        self._reranking = Reranking.of(settings.timeline, heuristic)
        # The heuristic's scores do not depend on the user: float32 (n), by catalog row.
        self._heuristic_values = np.zeros(len(self._catalog), np.float32)
        values = heuristic.values(self._catalog, window.rows, generation.made_at)
        self._heuristic_values[window.rows] = values

    def key(self, user_id: int) -> bytes:
        """The key of a user's timeline."""
        return timeline_key(user_id, self._generation.settings_digest, include_seen=False)

    def rank(self, user_ids: IntArray) -> RankedChunk:
        """Ranks the timelines of users int64 (u).

        A user with a score that is not finite gets no timeline; a server ranks that user on request.

        Raises:
            DeviceFault: The device failed.
            RunStopped: The run was stopped.
        """
        began = time.perf_counter()
        rows = [self._candidates(user_id) for user_id in user_ids.tolist()]
        scoring_began = time.perf_counter()
        logits = self._score(user_ids, rows)
        scoring = time.perf_counter() - scoring_began
        timelines = []
        for user_id, candidate_rows, values in zip(user_ids.tolist(), rows, logits, strict=True):
            with suppress(InvalidScores):
                timelines.append((self.key(user_id), self._ranked_timeline(candidate_rows, values)))
        heuristic = sum(values is None for values in logits)
        totals = RunTotals(
            neucf=len(timelines) - heuristic,
            heuristic=heuristic,
            left_out=len(user_ids) - len(timelines),
            pairs=sum(map(len, rows)),
            scoring=scoring,
            ordering=time.perf_counter() - began - scoring,
        )
        return RankedChunk(timelines, totals)

    def _score(self, user_ids: IntArray, rows: list[IntArray]) -> list[FloatArray | None]:
        """The model's logits float32 (m) for each user; None for users that it does not know."""
        user_rows = self._scorer.user_rows(user_ids) if self._scorer else np.zeros(len(user_ids), np.int64)
        trained, cold = np.flatnonzero(user_rows), np.flatnonzero(user_rows == 0)
        logits: list[FloatArray | None] = [None] * len(user_ids)
        if self._scorer and len(trained):
            scored = self._scorer.score(user_rows[trained], [rows[at] for at in trained])
            for at, values in zip(trained, scored, strict=True):
                logits[at] = values
        self._limiter.take(sum(len(rows[at]) for at in cold))
        return logits

    def _candidates(self, user_id: int) -> IntArray:
        made_at = self._generation.made_at
        visibility = VisibilityFilter.of(self._catalog, self._settings, made_at, user_id, include_seen=False)
        return candidates(visibility, self._settings.max_candidates)

    def _ranked_timeline(self, rows: IntArray, logits: FloatArray | None) -> RankedTimeline:
        """Orders posts at catalog rows int64 (m), by logits float32 (m) or by the heuristic."""
        if self._scorer is None or logits is None:
            scored = ScoredCandidates(rows, self._heuristic_values[rows], RankerName.HEURISTIC)
        else:
            values = impute_featureless(logits, self._scorer.has_features(rows))
            scored = ScoredCandidates(rows, values, RankerName.NEUCF, self._scorer.version)
        generation = self._generation
        ranked = order_posts(self._catalog, scored, generation.made_at, self._settings, self._reranking)
        return RankedTimeline(
            timeline_id=generation.generation_id,
            post_ids=ranked.post_ids,
            scores=ranked.scores,
            ranker=scored.ranker,
            model_version=scored.model_version,
            made_at=generation.made_at,
            fresh_until=self._fresh_until,
            read_at=self._read_at,
        )
