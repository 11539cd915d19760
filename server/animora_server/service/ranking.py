"""RankingService: the behaviours behind Rank and BatchRank."""

import asyncio
import time
from collections.abc import Mapping

from google.protobuf.message import Message

from animora.ranking.v1 import ranking_pb2 as pb
from animora_server.errors import CallError
from animora_server.metrics import RankMetrics, StageMetrics
from animora_server.ranker import Ranker
from animora_server.service.calls import Behaviour, Call, parse, status_of
from animora_server.service.gate import Gate
from animora_server.service.messages import check_batch, read_query, write_ranking
from animora_server.service.status import code_of
from animora_server.settings import RankingSettings
from animora_server.types import Ranking


class RankingService:
    """Parses, ranks, and writes; every outcome is counted here and nowhere else."""

    def __init__(
        self, ranker: Ranker, gate: Gate, limits: RankingSettings, ranks: RankMetrics, stages: StageMetrics
    ) -> None:
        self._ranker = ranker
        self._gate = gate
        self._limits = limits
        self._metrics = ranks
        self._stages = stages

    @property
    def behaviours(self) -> Mapping[str, Behaviour]:
        """By method."""
        return {"Rank": self.rank, "BatchRank": self.batch_rank}

    async def rank(self, data: bytes, call: Call) -> Message:
        """Answers Rank. Raises CallError."""
        started = time.perf_counter()
        request = pb.RankRequest()
        parse(request, data)
        self._stages.observe("decode", time.perf_counter() - started)
        with self._gate.work(len(request.post_ids)):
            return await self._rank("Rank", request, call)

    async def batch_rank(self, data: bytes, call: Call) -> Message:
        """Answers BatchRank: a failed request becomes its own result. Raises CallError for the whole."""
        started = time.perf_counter()
        batch = pb.BatchRankRequest()
        parse(batch, data)
        candidates = check_batch(batch, self._limits)
        self._stages.observe("decode", time.perf_counter() - started)
        with self._gate.work(candidates):
            results = await asyncio.gather(*(self._result(request, call) for request in batch.requests))
        return pb.BatchRankResponse(results=results)

    async def _result(self, request: pb.RankRequest, call: Call) -> pb.RankResult:
        try:
            return pb.RankResult(response=await self._rank("BatchRank", request, call))
        except Exception as error:  # whatever fails one request leaves its neighbours alone
            _, status = status_of(error, call)
            return pb.RankResult(error=status)

    async def _rank(self, method: str, request: pb.RankRequest, call: Call) -> pb.RankResponse:
        try:
            ranking = await self._ranker.rank(read_query(request, self._limits, call.deadline))
        except Exception as error:  # counted here, answered by whoever called
            code = code_of(error).name if isinstance(error, CallError) else "INTERNAL"
            self._metrics.request(method, code, None)
            raise
        self._count(method, len(request.post_ids), ranking)
        started = time.perf_counter()
        response = write_ranking(ranking)
        self._stages.observe("encode", time.perf_counter() - started)
        return response

    def _count(self, method: str, candidates: int, ranking: Ranking) -> None:
        self._metrics.request(method, "OK", ranking.ranker)
        self._metrics.candidates.observe(candidates)
        self._metrics.cache[ranking.cache].inc()
        if ranking.degraded_reason is not None:
            self._metrics.degraded[ranking.degraded_reason].inc()
        for reason, count in ranking.dropped.items():
            if count:
                self._metrics.dropped[reason].inc(count)
