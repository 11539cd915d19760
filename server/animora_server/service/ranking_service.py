"""The methods Rank and BatchRank."""

import time
from collections.abc import Mapping, Sequence
from operator import attrgetter

from google.rpc import status_pb2

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.errors import CallError
from animora_server.observability.metrics import RankMetrics
from animora_server.ranker import CandidateRanker
from animora_server.service.admission import AdmissionController
from animora_server.service.arm_outcomes import ArmOutcomes
from animora_server.service.calls import Call, UnaryMethod, log_caller_errors, status_of
from animora_server.service.rank_codec import (
    admission_weight,
    check_queries,
    read_batch,
    read_query,
    write_ranking,
    write_results,
)
from animora_server.service.status import code_of
from animora_server.service.wire_codec import RankRequest, parse
from animora_server.settings import RankingSettings
from animora_server.types import CacheStatus, DegradedReason, RankedCandidates, RankerName, RankQuery

_OUTCOME_KEY = attrgetter("ranker", "cache", "degraded_reason")


class RankingService:
    """Decodes requests, has them ranked, encodes the results; the one place where outcomes are counted."""

    def __init__(
        self,
        ranker: CandidateRanker,
        admission: AdmissionController,
        limits: RankingSettings,
        ranks: RankMetrics,
        arm_outcomes: ArmOutcomes | None = None,
    ) -> None:
        self._ranker = ranker
        self._admission = admission
        self._limits = limits
        self._metrics = ranks
        self._arm_outcomes = arm_outcomes

    @property
    def methods(self) -> Mapping[str, UnaryMethod]:
        """The implementation of each method, by name."""
        return {"Rank": self.rank, "BatchRank": self.batch_rank}

    async def rank(self, data: bytes, call: Call) -> bytes:
        """Serves Rank.

        Raises:
            CallError: The request is invalid, refused, or cannot be answered.
        """
        began = time.perf_counter()
        request, query = parse(data, RankRequest, pb.RankRequest), None
        try:
            query = read_query(request, self._limits, call.deadline, call.reserve)
            with self._admission.admit_rows(admission_weight(query)):
                ranking = await self._ranker.rank(query)
        except Exception as error:  # counted here; the call handler maps it to a status
            self._count_failure("Rank", query, error)
            raise
        self._count_rankings("Rank", [query], [ranking], began)
        return write_ranking(ranking)

    async def batch_rank(self, data: bytes, call: Call) -> bytes:
        """Serves BatchRank: an error of one request is the result of that request.

        Raises:
            CallError: The batch as a whole is invalid, refused, or cannot be answered.
        """
        began = time.perf_counter()
        decoded = [self._read(request, call) for request in read_batch(data, self._limits)]
        queries = [each for each in decoded if isinstance(each, RankQuery)]
        check_queries(queries, self._limits)
        with self._admission.admit_rows(sum(map(admission_weight, queries))):
            ranked = await self._ranker.rank_all(queries)
        self._count_rankings("BatchRank", queries, ranked, began)
        rankings = iter(ranked)
        outcomes = [next(rankings) if isinstance(each, RankQuery) else each for each in decoded]
        errors = [each for each in outcomes if not isinstance(each, RankedCandidates)]
        log_caller_errors("BatchRank", errors, call)
        return write_results(
            [
                each if isinstance(each, RankedCandidates) else self._status(query, each, call)
                for query, each in zip(decoded, outcomes, strict=True)
            ]
        )

    def _read(self, request: pb.RankRequest, call: Call) -> RankQuery | Exception:
        """Decodes a request of a batch; returns its error, so that the other requests are ranked."""
        try:
            return read_query(request, self._limits, call.deadline, call.reserve)
        except Exception as error:  # any error belongs to this request
            return error

    def _status(self, query: RankQuery | Exception, error: BaseException, call: Call) -> status_pb2.Status:
        """The status of a failed request of a batch; counts it."""
        self._count_failure("BatchRank", query if isinstance(query, RankQuery) else None, error)
        return status_of(error, call)[1]

    def _count_failure(self, method: str, query: RankQuery | None, error: BaseException) -> None:
        code = code_of(error).name if isinstance(error, CallError) else "INTERNAL"
        self._metrics.request(method, code, None)
        if self._arm_outcomes is not None and query is not None and not query.model_version:
            self._arm_outcomes.failed(method, query.user_id, error)

    def _count_rankings(
        self,
        method: str,
        queries: Sequence[RankQuery],
        outcomes: Sequence[RankedCandidates | BaseException],
        began: float,
    ) -> None:
        """Counts the queries of a call that were ranked, equal outcomes at once.

        Args:
            method: The method's name.
            queries: The queries.
            outcomes: The outcome of each.
            began: `time.perf_counter()` when the call began.
        """
        rankings = [each for each in outcomes if isinstance(each, RankedCandidates)]
        self._metrics.candidates.observe_all(
            [
                len(query.post_ids)
                for query, each in zip(queries, outcomes, strict=True)
                if isinstance(each, RankedCandidates)
            ]
        )
        counts: dict[tuple[RankerName, CacheStatus, DegradedReason | None], int] = {}
        for outcome in map(_OUTCOME_KEY, rankings):
            counts[outcome] = counts.get(outcome, 0) + 1
        for (ranker, cache, degraded), count in counts.items():
            self._metrics.request(method, "OK", ranker, count)
            self._metrics.cache[cache].inc(count)
            if degraded is not None:
                self._metrics.degraded[degraded].inc(count)
        for ranking in rankings:
            for reason, count in ranking.dropped.items():
                self._metrics.dropped[reason].inc(count)
        if self._arm_outcomes is not None:
            self._arm_outcomes.served(method, rankings, began)
