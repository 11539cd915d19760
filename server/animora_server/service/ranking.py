"""RankingService: the behaviours behind Rank and BatchRank."""

from collections.abc import Mapping

from google.protobuf.message import Message

from animora.ranking.v1 import ranking_pb2 as pb
from animora_server.errors import CallError
from animora_server.metrics import RankMetrics
from animora_server.ranker import Ranker
from animora_server.service.calls import Behaviour, Call, parse, status_of
from animora_server.service.gate import Gate
from animora_server.service.messages import check_candidates, check_requests, read_query, write_ranking
from animora_server.service.packed import (
    BatchRankRequest,
    BatchRankResponse,
    RankRequest,
    RankResponse,
    has_unknown_fields,
)
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

    async def rank(self, data: bytes, call: Call) -> Message:
        """Answers Rank. Raises CallError."""
        request = RankRequest()
        parse(request, data)
        if has_unknown_fields(request):
            request = pb.RankRequest.FromString(data)
        try:
            query = read_query(request, self._limits, call.deadline)
            with self._gate.work(len(query.post_ids)):
                ranking = await self._ranker.rank(query)
        except Exception as error:  # counted here, answered by the call's handler
            self._failed("Rank", error)
            raise
        self._ranked("Rank", query, ranking)
        response = RankResponse()
        write_ranking(ranking, response)
        return response

    async def batch_rank(self, data: bytes, call: Call) -> Message:
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
        response = BatchRankResponse()
        for each in asked:
            result = response.results.add()
            outcome = next(rankings) if isinstance(each, RankQuery) else each
            if isinstance(each, RankQuery) and isinstance(outcome, Ranking):
                self._ranked("BatchRank", each, outcome)
                write_ranking(outcome, result.response)
            elif isinstance(outcome, BaseException):
                self._failed("BatchRank", outcome)
                result.error.MergeFromString(status_of(outcome, call)[1].SerializeToString())
        return response

    def _read(self, request: pb.RankRequest, call: Call) -> RankQuery | Exception:
        """A query of a batch, or what is wrong with it: its neighbours are ranked all the same."""
        try:
            return read_query(request, self._limits, call.deadline)
        except Exception as error:  # whatever it is belongs to this request
            return error

    def _failed(self, method: str, error: BaseException) -> None:
        code = code_of(error).name if isinstance(error, CallError) else "INTERNAL"
        self._metrics.request(method, code, None)

    def _ranked(self, method: str, query: RankQuery, ranking: Ranking) -> None:
        self._metrics.request(method, "OK", ranking.ranker)
        self._metrics.candidates.observe(len(query.post_ids))
        self._metrics.cache[ranking.cache].inc()
        if ranking.degraded_reason is not None:
            self._metrics.degraded[ranking.degraded_reason].inc()
        for reason, count in ranking.dropped.items():
            if count:
                self._metrics.dropped[reason].inc(count)
