"""The method GetTimeline."""

import asyncio
import time
from collections.abc import Iterable, Mapping

from animora_proto.ranking.v1 import ranking_pb2 as pb
from animora_server.batching.coalescer import RequestCoalescer
from animora_server.errors import CallError
from animora_server.observability.metrics import RankMetrics, TimelineMetrics
from animora_server.service.admission import AdmissionController
from animora_server.service.arm_outcomes import ArmOutcomes
from animora_server.service.calls import Call, UnaryMethod
from animora_server.service.status import code_of
from animora_server.service.timeline_codec import admission_weight, read_timeline_query, write_page
from animora_server.service.wire_codec import parse
from animora_server.settings import TimelineSettings
from animora_server.timeline import Timelines

METHOD = "GetTimeline"


class TimelineService:
    """Decodes requests, gets the page, encodes it; the one place where outcomes are counted."""

    def __init__(
        self,
        timelines: Timelines,
        admission: AdmissionController,
        settings: TimelineSettings,
        metrics: TimelineMetrics,
        ranks: RankMetrics,
        arm_outcomes: ArmOutcomes | None = None,
    ) -> None:
        self._timelines = timelines
        self._admission = admission
        self._settings = settings
        self._metrics = metrics
        self._ranks = ranks
        self._arm_outcomes = arm_outcomes
        self._coalescer: RequestCoalescer[asyncio.Future[None]] = RequestCoalescer(_release)

    @property
    def methods(self) -> Mapping[str, UnaryMethod]:
        """The implementation of each method, by name."""
        return {METHOD: self.get_timeline}

    async def get_timeline(self, data: bytes, call: Call) -> bytes:
        """Serves GetTimeline.

        Raises:
            CallError: The request is invalid, refused, or cannot be answered.
        """
        began = time.perf_counter()
        request, query = parse(data, pb.GetTimelineRequest, pb.GetTimelineRequest), None
        coalesced: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._coalescer.add(coalesced)
        await coalesced
        try:
            query = read_timeline_query(request, self._settings, call.deadline, call.reserve)
            with self._admission.admit_rows(admission_weight(query)):
                page = await self._timelines.page(query)
        except Exception as error:  # counted here; the call handler maps it to a status
            code = code_of(error).name if isinstance(error, CallError) else "INTERNAL"
            self._ranks.request(METHOD, code, None)
            if self._arm_outcomes is not None and query is not None:
                self._arm_outcomes.failed(METHOD, query.user_id, error)
            raise
        self._ranks.request(METHOD, "OK", page.ranker)
        self._metrics.pages[page.cache].inc()
        if page.degraded_reason is not None:
            self._ranks.degraded[page.degraded_reason].inc()
        if self._arm_outcomes is not None:
            self._arm_outcomes.served(METHOD, [page], began)
        return write_page(page).SerializeToString()


def _release(requests: Iterable["asyncio.Future[None]"]) -> None:
    for request in requests:
        if not request.done():  # its caller may be cancelled
            request.set_result(None)
