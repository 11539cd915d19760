"""The calls of the service, once for both clients: the method, the message, and how to read the response."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from animora_client.errors import RankingError
from animora_client.ranking import Health, Ranking
from animora_client.request import RankRequest, TimelineRequest
from animora_client.timeline import TimelinePage
from animora_client.wire import (
    batch_message,
    rank_message,
    read_batch,
    read_page,
    read_ranking,
    timeline_message,
)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class UnaryCall(Generic[Result]):
    """One call, on a sync or an aio stub.

    Attributes:
        method: The name of the stub's method.
        message: The request message.
        read: Converts the response message.
    """

    method: str
    message: Message
    read: Callable[[Any], Result]


def rank_call(request: RankRequest) -> UnaryCall[Ranking]:
    """Rank; raises as `wire.rank_message`."""
    return UnaryCall("Rank", rank_message(request), read_ranking)


def batch_rank_call(requests: Sequence[RankRequest]) -> UnaryCall[tuple[Ranking | RankingError, ...]]:
    """BatchRank; raises as `wire.rank_message`."""
    count = len(requests)
    return UnaryCall("BatchRank", batch_message(requests), lambda response: read_batch(response, count))


def timeline_call(request: TimelineRequest) -> UnaryCall[TimelinePage]:
    """GetTimeline; raises as `wire.rank_message`."""
    return UnaryCall("GetTimeline", timeline_message(request), read_page)


def health_call(service: str) -> UnaryCall[Health]:
    """Check of grpc.health.v1; an empty name stands for the whole server."""
    return UnaryCall("Check", health_pb2.HealthCheckRequest(service=service), _read_health)


def _read_health(response: health_pb2.HealthCheckResponse) -> Health:
    serving = response.status == health_pb2.HealthCheckResponse.SERVING
    return Health.SERVING if serving else Health.NOT_SERVING
