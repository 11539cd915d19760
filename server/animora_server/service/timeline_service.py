"""TimelineService: the behaviour behind GetTimeline."""

import asyncio
from collections.abc import Iterable, Mapping

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.errors import CallError
from animora_server.observability.metrics import RankMetrics, TimelineMetrics
from animora_server.ranker.coalescer import RequestCoalescer
from animora_server.service.admission import AdmissionController
from animora_server.service.calls import Call, UnaryMethod
from animora_server.service.status import code_of
from animora_server.service.timeline_codec import explanation_weight, read_timeline_query, write_page
from animora_server.service.wire_codec import parse
from animora_server.settings import TimelineSettings
from animora_server.timeline import Timelines

METHOD = "GetTimeline"


class TimelineService:
    """Parses, has the page cut, and writes; every outcome is counted here and nowhere else."""

    def __init__(
        self,
        timelines: Timelines,
        admission: AdmissionController,
        settings: TimelineSettings,
        metrics: TimelineMetrics,
        ranks: RankMetrics,
    ) -> None:
        self._timelines = timelines
        self._admission = admission
        self._settings = settings
        self._metrics = metrics
        self._ranks = ranks
        self._gathering: RequestCoalescer[asyncio.Future[None]] = RequestCoalescer(_release)

    @property
    def methods(self) -> Mapping[str, UnaryMethod]:
        """By method."""
        return {METHOD: self.get_timeline}

    async def get_timeline(self, data: bytes, call: Call) -> bytes:
        """Answers GetTimeline. Raises CallError."""
        request = parse(data, pb.GetTimelineRequest, pb.GetTimelineRequest)
        company: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gathering.add(company)
        await company
        try:
            query = read_timeline_query(request, self._settings, call.deadline, call.reserve)
            with self._admission.work(explanation_weight(query)):
                page = await self._timelines.page(query)
        except Exception as error:  # counted here, answered by the call's handler
            code = code_of(error).name if isinstance(error, CallError) else "INTERNAL"
            self._ranks.request(METHOD, code, None)
            raise
        self._ranks.request(METHOD, "OK", page.ranker)
        self._metrics.pages[page.cache].inc()
        if page.degraded_reason is not None:
            self._ranks.degraded[page.degraded_reason].inc()
        return write_page(page).SerializeToString()


def _release(arrived: Iterable["asyncio.Future[None]"]) -> None:
    for each in arrived:
        if not each.done():  # who was cancelled has gone on already
            each.set_result(None)
