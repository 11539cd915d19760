"""RankingService: the behaviours behind Rank and BatchRank."""

from collections.abc import Mapping

from google.rpc import status_pb2

from animora.ranking.v1 import ranking_pb2 as pb
from animora_server.errors import CallError
from animora_server.metrics import RankMetrics
from animora_server.ranker import Ranker
from animora_server.service.calls import Behaviour, Call, parse, status_of
from animora_server.service.gate import Gate
from animora_server.service.messages import (
    check_candidates,
    check_requests,
    read_query,
    write_ranking,
    write_results,
)
from animora_server.service.packed import BatchRankRequest, RankRequest, has_unknown_fields
from animora_server.service.status import code_of
from animora_server.settings import RankingSettings
from animora_server.types import Ranking, RankQuery


class RankingService:
    """Parses, ranks, and writes; every outcome is counted here and nowhere else."""

    def __init__(self, ranker: Ranker, gate: Gate, limits: RankingSettings, ranks: RankMetrics) -> None:
        self._ranker = ranker
        self._gate = gate
        self._limits = limits
        self._metrics = ranks

    @property
    def behaviours(self) -> Mapping[str, Behaviour]:
        """By method."""
        return {"Rank": self.rank, "BatchRank": self.batch_rank}

    async def rank(self, data: bytes, call: Call) -> bytes:
        """Answers Rank. Raises CallError."""
        request = RankRequest()
        parse(request, data)
        if has_unknown_fields(request):
            request = pb.RankRequest.FromString(data)
        try:
            query = self._query(request, call)
            with self._gate.work(len(query.post_ids)):
                ranking = await self._ranker.rank(query)
        except Exception as error:  # counted here, answered by the call's handler
            self._failed("Rank", error)
            raise
        self._ranked("Rank", ranking)
        return write_ranking(ranking)

    async def batch_rank(self, data: bytes, call: Call) -> bytes:
        """Answers BatchRank: a failed request becomes its own result. Raises CallError for the whole."""
        batch = BatchRankRequest()
        parse(batch, data)
        check_requests(len(batch.requests), self._limits)
        if any(has_unknown_fields(request) for request in batch.requests):
            batch = pb.BatchRankRequest.FromString(data)
        asked = [self._read(request, call) for request in batch.requests]
        queries = [each for each in asked if isinstance(each, RankQuery)]
        candidates = sum([len(query.post_ids) for query in queries])
        check_candidates(candidates, self._limits)
        with self._gate.work(candidates):
            rankings = iter(await self._ranker.rank_all(queries))
        outcomes = [next(rankings) if isinstance(each, RankQuery) else each for each in asked]
        return write_results([self._told(outcome, call) for outcome in outcomes])

    def _read(self, request: pb.RankRequest, call: Call) -> RankQuery | Exception:
        """A query of a batch, or what is wrong with it: its neighbours are ranked all the same."""
        try:
            return self._query(request, call)
        except Exception as error:  # whatever it is belongs to this request
            return error

    def _query(self, request: pb.RankRequest, call: Call) -> RankQuery:
        query = read_query(request, self._limits, call.deadline)
        self._metrics.candidates.observe(len(query.post_ids))
        return query

    def _told(self, outcome: Ranking | BaseException, call: Call) -> Ranking | status_pb2.Status:
        """What a batch's caller is told of one request."""
        if isinstance(outcome, Ranking):
            self._ranked("BatchRank", outcome)
            return outcome
        self._failed("BatchRank", outcome)
        return status_of(outcome, call)[1]

    def _failed(self, method: str, error: BaseException) -> None:
        code = code_of(error).name if isinstance(error, CallError) else "INTERNAL"
        self._metrics.request(method, code, None)

    def _ranked(self, method: str, ranking: Ranking) -> None:
        self._metrics.request(method, "OK", ranking.ranker)
        self._metrics.cache[ranking.cache].inc()
        if ranking.degraded_reason is not None:
            self._metrics.degraded[ranking.degraded_reason].inc()
        for reason, count in ranking.dropped.items():
            self._metrics.dropped[reason].inc(count)
