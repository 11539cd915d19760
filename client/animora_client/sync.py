"""The client for threads."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self, Unpack

import grpc
from grpc_health.v1 import health_pb2_grpc

from animora_client.connection import (
    DEFAULT_CHANNEL,
    DEFAULT_TARGET,
    CallArguments,
    ChannelArguments,
    ChannelOptions,
    Connection,
)
from animora_client.errors import RankingError, SnapshotGone
from animora_client.health import Health, health_message, read_health
from animora_client.ranking import RankedPost, Ranking
from animora_client.request import RankOptions, RankRequest, TimelineOptions, TimelineRequest
from animora_client.scroll import Scroll
from animora_client.status import typed_errors
from animora_client.timeline import TimelinePage
from animora_client.tls import Tls
from animora_client.wire import (
    SERVICE,
    batch_message,
    rank_message,
    read_batch,
    read_page,
    read_ranking,
    timeline_message,
)
from animora_proto.ranking.v1 import ranking_pb2_grpc


class RankingClient:
    """Ranks posts over a channel that lives as long as the `with` block.

    One client serves any number of threads at once. `Connection` says what the arguments mean.
    """

    def __init__(
        self,
        target: str = DEFAULT_TARGET,
        *,
        timeout: float = 1.0,
        tls: Tls | None = None,
        metadata: Mapping[str, str] | None = None,
        channel: ChannelOptions = DEFAULT_CHANNEL,
    ) -> None:
        self._connection = Connection(target, timeout, tls, metadata or {}, channel)
        self._channel: grpc.Channel | None = None
        self._stub: ranking_pb2_grpc.RankingServiceStub | None = None

    def __enter__(self) -> Self:
        self._channel = open_channel(self._connection, self._connection.ranking_arguments())
        self._stub = ranking_pb2_grpc.RankingServiceStub(self._channel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            channel.close()

    def rank(
        self,
        user_id: int,
        post_ids: Collection[int],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Unpack[RankOptions],
    ) -> Ranking:
        """Orders posts for a user, best first; takes and raises what `AsyncRankingClient.rank` does."""
        message = rank_message(RankRequest(user_id, post_ids, **options))
        with typed_errors(self._is_connected):
            response = self._service().Rank(message, **self._connection.call(timeout, metadata))
        return read_ranking(response)

    def batch_rank(
        self,
        requests: Sequence[RankRequest],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[Ranking | RankingError, ...]:
        """Ranks up to 256 lists in one call; for each its ranking, or the error that it alone met."""
        message = batch_message(requests)
        with typed_errors(self._is_connected):
            response = self._service().BatchRank(message, **self._connection.call(timeout, metadata))
        return read_batch(response, len(requests))

    def timeline_page(
        self,
        user_id: int,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Unpack[TimelineOptions],
    ) -> TimelinePage:
        """Gets one page of a user's feed; takes and raises what `AsyncRankingClient.timeline_page` does."""
        request = TimelineRequest(user_id, **options)
        return self._get_page(request, self._connection.call(timeout, metadata))

    def timeline(
        self,
        user_id: int,
        *,
        limit: int = 0,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Unpack[TimelineOptions],
    ) -> "Timeline":
        """A user's feed, asked for page by page while it is read, as `AsyncRankingClient.timeline` says."""
        call = self._connection.call(timeout, metadata)
        return Timeline(partial(self._get_page, call=call), TimelineRequest(user_id, **options), limit)

    def health(self, service: str = SERVICE, *, timeout: float | None = None) -> Health:
        """Asks one server behind the target whether it serves; an empty name stands for all it offers."""
        with open_channel(self._connection, self._connection.probe_arguments()) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            with typed_errors(lambda: is_connected(channel)):
                response = stub.Check(health_message(service), **self._connection.call(timeout, None))
        return read_health(response)

    def _get_page(self, request: TimelineRequest, call: CallArguments) -> TimelinePage:
        message = timeline_message(request)
        with typed_errors(self._is_connected):
            response = self._service().GetTimeline(message, **call)
        return read_page(response)

    def _is_connected(self) -> bool:
        return self._channel is not None and is_connected(self._channel)

    def _service(self) -> ranking_pb2_grpc.RankingServiceStub:
        if self._stub is None:
            raise RuntimeError("the client is not open: make calls inside its `with` block")
        return self._stub


class Timeline:
    """A user's feed: a loop gives its posts, `pages` its pages; for the rest see `AsyncTimeline`."""

    def __init__(
        self, get_page: Callable[[TimelineRequest], TimelinePage], first: TimelineRequest, limit: int
    ) -> None:
        self._get_page = get_page
        self._first = first
        self._limit = limit

    def __iter__(self) -> Iterator[RankedPost]:
        for page in self.pages():
            yield from page

    def pages(self) -> Iterator[TimelinePage]:
        """The pages, without posts that an earlier one had; one may be empty."""
        scroll = Scroll(self._first, self._limit)
        while (request := scroll.request) is not None:
            try:
                page = self._get_page(request)
            except SnapshotGone:
                if not scroll.start_over():
                    raise
            else:
                yield scroll.take(page)


def open_channel(connection: Connection, arguments: ChannelArguments) -> grpc.Channel:
    """A channel that connects at its first call."""
    if connection.tls is None:
        return grpc.insecure_channel(connection.target, arguments)
    return grpc.secure_channel(connection.target, connection.tls.credentials(), arguments)


def is_connected(channel: grpc.Channel) -> bool:
    """Whether the channel has a connection over which calls go.

    gRPC tells the state of a sync channel to subscribers alone, at the cost of a thread that polls and may
    outlive the channel. So the channel beneath is asked.
    """
    state = channel._channel.check_connectivity_state(False)  # type: ignore[attr-defined]
    return bool(state == grpc.ChannelConnectivity.READY.value[0])
