"""A ranking server that does what a test's script says: a real grpc.aio server on a free port."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as aio_health
from grpc_status import rpc_status

from animora.ranking.v1 import ranking_pb2, ranking_pb2_grpc
from animora_client.wire import SERVICE

Behaviour = Callable[[ranking_pb2.RankRequest, Any], Awaitable[ranking_pb2.RankResponse]]


def in_order(request: ranking_pb2.RankRequest) -> ranking_pb2.RankResponse:
    """The larger the id, the better; ids below 0 are unknown."""
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
        terms = [ranking_pb2.Term(name="gmf", value=0.5), ranking_pb2.Term(name="bias", value=-0.25)]
        response.explanations.extend(ranking_pb2.Explanation(terms=terms) for _ in kept)
    return response


async def ranked(request: ranking_pb2.RankRequest, context: Any) -> ranking_pb2.RankResponse:
    """The normal answer."""
    return in_order(request)


async def hanging(request: ranking_pb2.RankRequest, context: Any) -> ranking_pb2.RankResponse:
    """No answer until the caller gives up."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


def answering(response: ranking_pb2.RankResponse) -> Behaviour:
    """A fixed answer."""

    async def behave(request: ranking_pb2.RankRequest, context: Any) -> ranking_pb2.RankResponse:
        return response

    return behave


def failing(code: grpc.StatusCode, message: str, *details: Message) -> Behaviour:
    """An error with google.rpc details."""

    async def behave(request: ranking_pb2.RankRequest, context: Any) -> ranking_pb2.RankResponse:
        plain = rpc_status.to_status(status(code, message, *details))
        # The status's trailing metadata takes the place of what was set before.
        trailing = (*plain.trailing_metadata, *context.trailing_metadata())
        await context.abort_with_status(plain._replace(trailing_metadata=trailing))
        raise AssertionError("unreachable")

    return behave


def status(code: grpc.StatusCode, message: str, *details: Message) -> status_pb2.Status:
    """A google.rpc.Status."""
    result = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        result.details.add().Pack(detail)
    return result


def bad_request(field_name: str, description: str) -> error_details_pb2.BadRequest:
    """The detail that names a field."""
    detail = error_details_pb2.BadRequest()
    detail.field_violations.add(field=field_name, description=description)
    return detail


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    """The detail that says when to come back."""
    detail = error_details_pb2.RetryInfo()
    detail.retry_delay.FromNanoseconds(round(seconds * 1e9))
    return detail


@dataclass
class ScriptedServer(ranking_pb2_grpc.RankingServiceServicer):
    """Answers with the script's behaviours, one a call, then in order; remembers what it was asked."""

    target: str = ""
    script: list[Behaviour] = field(default_factory=list)
    requests: list[ranking_pb2.RankRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    calls: asyncio.Condition = field(default_factory=asyncio.Condition)
    health: aio_health.HealthServicer = field(default_factory=aio_health.HealthServicer)

    async def Rank(self, request: ranking_pb2.RankRequest, context: Any) -> ranking_pb2.RankResponse:
        await self._remember(context)
        self.requests.append(request)
        behave = self.script.pop(0) if self.script else ranked
        return await behave(request, context)

    async def BatchRank(
        self, request: ranking_pb2.BatchRankRequest, context: Any
    ) -> ranking_pb2.BatchRankResponse:
        await self._remember(context)
        self.requests.extend(request.requests)
        if self.script:
            await self.script.pop(0)(request.requests[0], context)
        response = ranking_pb2.BatchRankResponse()
        for index, one in enumerate(request.requests):
            if one.post_ids:
                response.results.add(response=in_order(one))
            else:
                detail = bad_request(f"requests[{index}].post_ids", "must not be empty")
                error = status(grpc.StatusCode.INVALID_ARGUMENT, "post_ids: must not be empty", detail)
                response.results.add(error=error)
        return response

    async def asked(self, times: int) -> None:
        """Waits until so many calls have come."""
        async with self.calls:
            await self.calls.wait_for(lambda: len(self.metadata) >= times)

    async def say(self, serving: bool) -> None:
        """Sets what the health service answers."""
        state = health_pb2.HealthCheckResponse
        await self.health.set(SERVICE, state.SERVING if serving else state.NOT_SERVING)

    async def _remember(self, context: Any) -> None:
        async with self.calls:
            self.metadata.append(dict(context.invocation_metadata()))
            self.calls.notify_all()
        context.set_trailing_metadata((("x-request-id", f"request-{len(self.metadata)}"),))


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[ScriptedServer]:
    """A scripted server that listens."""
    scripted = ScriptedServer()
    server = grpc.aio.server()
    ranking_pb2_grpc.add_RankingServiceServicer_to_server(scripted, server)
    health_pb2_grpc.add_HealthServicer_to_server(scripted.health, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("127.0.0.1:0", credentials)
    scripted.target = f"127.0.0.1:{port}"
    await scripted.say(serving=True)
    await server.start()
    try:
        yield scripted
    finally:
        await server.stop(None)
