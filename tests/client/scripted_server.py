"""A scripted ranking server: a real grpc.aio server on a free port."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as aio_health
from grpc_status import rpc_status

from animora_client.wire import SERVICE
from animora_proto.ranking.v1 import ranking_pb2, ranking_pb2_grpc

Handler = Callable[[Any, Any], Awaitable[Any]]  # from a request and its context to a response


def in_order(request: ranking_pb2.RankRequest) -> ranking_pb2.RankResponse:
    """Ranks by descending id; negative ids are unknown."""
    known = sorted((post for post in request.post_ids if post >= 0), reverse=True)
    kept = known[: request.limit or None]
    response = ranking_pb2.RankResponse(
        post_ids=kept,
        scores=[1 / (rank + 2) for rank in range(len(kept))],
        ranker=ranking_pb2.RANKER_NEUCF,
        model_version="v1",
        cache=ranking_pb2.CACHE_STATUS_MISS,
        dropped=ranking_pb2.DroppedCandidates(unknown=len(request.post_ids) - len(known)),
    )
    if request.explain:
        for post_id in sorted(set(request.post_ids) - set(kept)):
            reason = ranking_pb2.DROP_REASON_UNKNOWN if post_id < 0 else ranking_pb2.DROP_REASON_OUTRANKED
            response.dropped_posts.add(post_id=post_id, reason=reason)
        terms = [ranking_pb2.Term(name="gmf", value=0.5), ranking_pb2.Term(name="bias", value=-0.25)]
        response.explanations.extend(ranking_pb2.Explanation(terms=terms) for _ in kept)
    return response


EXPLANATION = ranking_pb2.Explanation(
    terms=[
        ranking_pb2.Term(name=name, value=value)
        for name, value in {
            "gmf_id": 0.5,
            "gmf_image": 0.25,
            "gmf_caption": -0.125,
            "mlp_user": 1.5,
            "mlp_id": -0.75,
            "mlp_image": 0.0,
            "mlp_caption": 0.0625,
            "bias": -2.5,
        }.items()
    ],
    reranking_terms=[
        ranking_pb2.Term(name="relevance", value=0.75),
        ranking_pb2.Term(name="author_diversity", value=-0.25),
    ],
    exploration=True,
)


async def ranked(request: ranking_pb2.RankRequest, context: Any) -> ranking_pb2.RankResponse:
    """The regular response."""
    return in_order(request)


async def hanging(request: ranking_pb2.RankRequest, context: Any) -> ranking_pb2.RankResponse:
    """No response until the caller cancels."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def paging(posts: Sequence[int]) -> Handler:
    """Pages of a timeline, with 5 posts by default; the token is the offset of the next page."""

    async def handle(
        request: ranking_pb2.GetTimelineRequest, context: Any
    ) -> ranking_pb2.GetTimelineResponse:
        response = ranking_pb2.GetTimelineResponse(
            ranker=ranking_pb2.RANKER_NEUCF,
            model_version="v1",
            cache=ranking_pb2.CACHE_STATUS_STALE if request.page_token else ranking_pb2.CACHE_STATUS_HIT,
        )
        offset = int(request.page_token or 0)
        while offset < len(posts) and len(response.post_ids) < (request.page_size or 5):
            if posts[offset] not in request.exclude_post_ids:
                response.post_ids.append(posts[offset])
                response.scores.append(1 / (offset + 2))
            offset += 1
        if offset < len(posts):
            response.next_page_token = str(offset)
        if request.explain:
            response.explanations.extend(EXPLANATION for _ in response.post_ids)
        for post_id in sorted(set(request.explain_post_ids) - set(posts)):
            response.dropped_posts.add(post_id=post_id, reason=ranking_pb2.DROP_REASON_BLOCKED)
        return response

    return handle


def answering(response: ranking_pb2.RankResponse | ranking_pb2.GetTimelineResponse) -> Handler:
    """A fixed response."""

    async def handle(request: Any, context: Any) -> Any:
        return response

    return handle


def failing(code: grpc.StatusCode, message: str, *details: Message) -> Handler:
    """An error with google.rpc details."""

    async def handle(request: Any, context: Any) -> Any:
        plain = rpc_status.to_status(status(code, message, *details))
        # The trailing metadata of the status replaces what was set before.
        trailing = (*plain.trailing_metadata, *context.trailing_metadata())
        await context.abort_with_status(plain._replace(trailing_metadata=trailing))
        raise AssertionError("unreachable")

    return handle


def status(code: grpc.StatusCode, message: str, *details: Message) -> status_pb2.Status:
    """A google.rpc.Status."""
    result = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        result.details.add().Pack(detail)
    return result


def snapshot_gone() -> Handler:
    """The error of a page token whose timeline is gone."""
    reason = error_details_pb2.ErrorInfo(reason="SNAPSHOT_GONE", domain="animora")
    return failing(grpc.StatusCode.FAILED_PRECONDITION, "page_token: its timeline is gone", reason)


def bad_request(field_name: str, description: str) -> error_details_pb2.BadRequest:
    """The detail that names a field."""
    detail = error_details_pb2.BadRequest()
    detail.field_violations.add(field=field_name, description=description)
    return detail


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    """The detail with the retry delay."""
    detail = error_details_pb2.RetryInfo()
    detail.retry_delay.FromNanoseconds(round(seconds * 1e9))
    return detail


@dataclass
class ScriptedServer(ranking_pb2_grpc.RankingServiceServicer):
    """Answers by the script's handlers, one a call, then by default ones; records requests and metadata."""

    target: str = ""
    script: list[Handler] = field(default_factory=list)
    timeline: Handler = field(default_factory=lambda: paging(range(12, 0, -1)))
    requests: list[ranking_pb2.RankRequest] = field(default_factory=list)
    timeline_requests: list[ranking_pb2.GetTimelineRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)
    health: aio_health.HealthServicer = field(default_factory=aio_health.HealthServicer)

    async def Rank(self, request: ranking_pb2.RankRequest, context: Any) -> Any:
        await self._record(context)
        self.requests.append(request)
        return await self._next(ranked)(request, context)

    async def GetTimeline(self, request: ranking_pb2.GetTimelineRequest, context: Any) -> Any:
        await self._record(context)
        self.timeline_requests.append(request)
        return await self._next(self.timeline)(request, context)

    async def BatchRank(
        self, request: ranking_pb2.BatchRankRequest, context: Any
    ) -> ranking_pb2.BatchRankResponse:
        await self._record(context)
        self.requests.extend(request.requests)
        if self.script:
            await self.script.pop(0)(request.requests[0], context)
        response = ranking_pb2.BatchRankResponse()
        for index, one in enumerate(request.requests):
            if one.post_ids:
                response.results.add(response=in_order(one))
            else:
                problem = "is empty: give 1 or more candidates"
                detail = bad_request(f"requests[{index}].post_ids", problem)
                error = status(grpc.StatusCode.INVALID_ARGUMENT, f"post_ids: {problem}", detail)
                response.results.add(error=error)
        return response

    async def received(self, calls: int) -> None:
        """Waits for a number of calls."""
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.metadata) >= calls)

    async def set_health(self, serving: bool) -> None:
        """Sets the status of the health service."""
        state = health_pb2.HealthCheckResponse
        await self.health.set(SERVICE, state.SERVING if serving else state.NOT_SERVING)

    def _next(self, default: Handler) -> Handler:
        return self.script.pop(0) if self.script else default

    async def _record(self, context: Any) -> None:
        async with self.changed:
            self.metadata.append(dict(context.invocation_metadata()))
            self.changed.notify_all()
        context.set_trailing_metadata((("x-request-id", f"request-{len(self.metadata)}"),))


@asynccontextmanager
async def serving(
    credentials: grpc.ServerCredentials | None = None, port: int = 0
) -> AsyncIterator[ScriptedServer]:
    """A scripted server that listens."""
    scripted = ScriptedServer()
    server = grpc.aio.server()
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(scripted, server)
    health_pb2_grpc.add_HealthServicer_to_server(scripted.health, server)
    if credentials is None:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    else:
        port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    scripted.target = f"127.0.0.1:{port}"
    await scripted.set_health(serving=True)
    await server.start()
    try:
        yield scripted
    finally:
        await server.stop(None)
