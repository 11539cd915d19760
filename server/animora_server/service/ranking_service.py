"""RankingService: the behaviours behind Rank and BatchRank."""

from collections.abc import Mapping, Sequence
from operator import attrgetter

from google.rpc import status_pb2

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.errors import CallError
from animora_server.observability.metrics import RankMetrics
from animora_server.ranker import CandidateRanker
from animora_server.service.admission import AdmissionController
from animora_server.service.calls import Call, UnaryMethod, log_refusal, status_of
from animora_server.service.rank_codec import (
    check_queries,
    read_batch,
    read_query,
    weight,
    write_ranking,
    write_results,
)
from animora_server.service.status import code_of
from animora_server.service.wire_codec import RankRequest, parse
from animora_server.settings import RankingSettings
from animora_server.types import CacheStatus, DegradedReason, RankedCandidates, RankerName, RankQuery

_KIND = attrgetter("ranker", "cache", "degraded_reason")


class RankingService:
    """Parses, ranks, and writes; every outcome is counted here and nowhere else."""

    def __init__(
        self,
        ranker: CandidateRanker,
        admission: AdmissionController,
        limits: RankingSettings,
        ranks: RankMetrics,
    ) -> None:
        self._ranker = ranker
        self._admission = admission
        self._limits = limits
        self._metrics = ranks

    @property
    def methods(self) -> Mapping[str, UnaryMethod]:
        """By method."""
        return {"Rank": self.rank, "BatchRank": self.batch_rank}

    async def rank(self, data: bytes, call: Call) -> bytes:
        """Answers Rank. Raises CallError."""
        request = parse(data, RankRequest, pb.RankRequest)
        try:
            query = read_query(request, self._limits, call.deadline, call.reserve)
            with self._admission.work(weight(query)):
                ranking = await self._ranker.rank(query)
        except Exception as error:  # counted here, answered by the call's handler
            self._failed("Rank", error)
            raise
        self._ranked("Rank", [query], [ranking])
        return write_ranking(ranking)

    async def batch_rank(self, data: bytes, call: Call) -> bytes:
        """Answers BatchRank: a failed request becomes its own result. Raises CallError for the whole."""
        asked = [self._read(request, call) for request in read_batch(data, self._limits)]
        queries = [each for each in asked if isinstance(each, RankQuery)]
        check_queries(queries, self._limits)
        with self._admission.work(sum(map(weight, queries))):
            ranked = await self._ranker.rank_all(queries)
        self._ranked("BatchRank", queries, ranked)
        rankings = iter(ranked)
        outcomes = [next(rankings) if isinstance(each, RankQuery) else each for each in asked]
        log_refusal("BatchRank", [each for each in outcomes if not isinstance(each, RankedCandidates)], call)
        return write_results(
            [each if isinstance(each, RankedCandidates) else self._status(each, call) for each in outcomes]
        )

    def _read(self, request: pb.RankRequest, call: Call) -> RankQuery | Exception:
        """A query of a batch, or what is wrong with it: its neighbours are ranked all the same."""
        try:
            return read_query(request, self._limits, call.deadline, call.reserve)
        except Exception as error:  # whatever it is belongs to this request
            return error

    def _status(self, error: BaseException, call: Call) -> status_pb2.Status:
        """What a batch's caller is told of a request that failed."""
        self._failed("BatchRank", error)
        return status_of(error, call)[1]

    def _failed(self, method: str, error: BaseException) -> None:
        code = code_of(error).name if isinstance(error, CallError) else "INTERNAL"
        self._metrics.request(method, code, None)

    def _ranked(
        self, method: str, queries: Sequence[RankQuery], outcomes: Sequence[RankedCandidates | BaseException]
    ) -> None:
        """Counts the queries that were ranked; what is alike, together."""
        rankings = [each for each in outcomes if isinstance(each, RankedCandidates)]
        self._metrics.candidates.observe_all(
            [
                len(query.post_ids)
                for query, each in zip(queries, outcomes, strict=True)
                if isinstance(each, RankedCandidates)
            ]
        )
        kinds: dict[tuple[RankerName, CacheStatus, DegradedReason | None], int] = {}
        for kind in map(_KIND, rankings):
            kinds[kind] = kinds.get(kind, 0) + 1
        for (ranker, cache, degraded), many in kinds.items():
            self._metrics.request(method, "OK", ranker, many)
            self._metrics.cache[cache].inc(many)
            if degraded is not None:
                self._metrics.degraded[degraded].inc(many)
        for ranking in rankings:
            for reason, count in ranking.dropped.items():
                self._metrics.dropped[reason].inc(count)
