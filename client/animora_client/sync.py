"""The client for threads."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, Unpack

import grpc
from grpc_health.v1 import health_pb2_grpc

from animora_client.calls import (
    Result,
    UnaryCall,
    batch_rank_call,
    health_call,
    rank_call,
    timeline_call,
)
from animora_client.connection import (
    DEFAULT_TARGET,
    CallArguments,
    ChannelArguments,
    ClientOptions,
    Connection,
)
from animora_client.errors import RankingError, SnapshotGone
from animora_client.overload import CallCounts, LoadControl
from animora_client.ranking import Health, RankedPost, Ranking
from animora_client.request import Priority, RankOptions, RankRequest, TimelineOptions, TimelineRequest
from animora_client.scroll import Scroll
from animora_client.status import typed_errors
from animora_client.timeline import TimelinePage
from animora_client.wire import SERVICE
from animora_proto.ranking.v1 import ranking_pb2_grpc


class RankingClient:
    """Calls an Animora server over a channel that is open in the `with` block.

    Concurrent threads can share one client. `Connection` documents the arguments.
    """

    def __init__(self, target: str = DEFAULT_TARGET, **options: Unpack[ClientOptions]) -> None:
        self._connection = Connection(target, **options)
        self._load = LoadControl(self._connection.channel)
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
        priority: Priority | None = None,
        **options: Unpack[RankOptions],
    ) -> Ranking:
        """Ranks posts for a user, best first; see `AsyncRankingClient.rank`."""
        call = rank_call(RankRequest(user_id, post_ids, **options))
        return self._invoke(call, self._connection.call(timeout, metadata, priority))

    def batch_rank(
        self,
        requests: Sequence[RankRequest],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        priority: Priority | None = None,
    ) -> tuple[Ranking | RankingError, ...]:
        """Ranks for up to 256 requests in one call; see `AsyncRankingClient.batch_rank`."""
        return self._invoke(batch_rank_call(requests), self._connection.call(timeout, metadata, priority))

    def timeline_page(
        self,
        user_id: int,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        priority: Priority | None = None,
        **options: Unpack[TimelineOptions],
    ) -> TimelinePage:
        """Gets one page of a user's timeline; see `AsyncRankingClient.timeline_page`."""
        request = TimelineRequest(user_id, **options)
        return self._get_page(request, self._connection.call(timeout, metadata, priority))

    def timeline(
        self,
        user_id: int,
        *,
        limit: int = 0,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        priority: Priority | None = None,
        **options: Unpack[TimelineOptions],
    ) -> "Timeline":
        """A user's timeline, fetched page by page during iteration; see `AsyncRankingClient.timeline`."""
        # Rejects a wrong timeout here, not with the first page.
        self._connection.call(timeout, metadata, priority)

        def get_page(request: TimelineRequest) -> TimelinePage:
            return self._get_page(request, self._connection.call(timeout, metadata, priority))

        return Timeline(get_page, TimelineRequest(user_id, **options), limit)

    def health(self, service: str = SERVICE, *, timeout: float | None = None) -> Health:
        """Gets the health of one server behind the target; see `AsyncRankingClient.health`."""
        with open_channel(self._connection, self._connection.probe_arguments()) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            arguments = self._connection.call(timeout)
            return invoke(stub, health_call(service), arguments, lambda: is_connected(channel))

    @property
    def counts(self) -> CallCounts:
        """How many calls were sent, refused, retried and held back since the client was made."""
        return self._load.counts

    def _get_page(self, request: TimelineRequest, arguments: CallArguments) -> TimelinePage:
        return self._invoke(timeline_call(request), arguments)

    def _invoke(self, call: UnaryCall[Result], arguments: CallArguments) -> Result:
        stub, attempts = self._service(), self._load.start(arguments)
        while True:
            try:
                result = invoke(stub, call, attempts.next(), self._is_connected)
            except RankingError as error:
                delay = attempts.retry_delay(error)
                if delay is None:
                    raise
            else:
                attempts.answered()
                return result
            time.sleep(delay)

    def _is_connected(self) -> bool:
        return self._channel is not None and is_connected(self._channel)

    def _service(self) -> ranking_pb2_grpc.RankingServiceStub:
        if self._stub is None:
            raise RuntimeError("the client is not open: make calls inside its `with` block")
        return self._stub


class Timeline:
    """A user's timeline: `for` yields posts, `pages` yields pages; see `AsyncTimeline`."""

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
        """The pages, without posts of earlier pages; a page may be empty."""
        scroll = Scroll(self._first, self._limit)
        while (request := scroll.request) is not None:
            try:
                page = self._get_page(request)
            except SnapshotGone:
                if not scroll.start_over():
                    raise
            else:
                yield scroll.take(page)


def invoke(
    stub: object, call: UnaryCall[Result], arguments: CallArguments, connected: Callable[[], bool]
) -> Result:
    """Makes a call. Raises RankingError."""
    with typed_errors(connected):
        response = getattr(stub, call.method)(call.message, **arguments)
    return call.read(response)


def open_channel(connection: Connection, arguments: ChannelArguments) -> grpc.Channel:
    """A channel, which connects at the first call."""
    if connection.tls is None:
        return grpc.insecure_channel(connection.target, arguments)
    return grpc.secure_channel(connection.target, connection.tls.credentials(), arguments)


def is_connected(channel: grpc.Channel) -> bool:
    """Whether the channel has a ready connection.

    gRPC's public API reports the state of a sync channel to subscribers only, at the cost of a polling thread
    that may outlive the channel. So this function reads the state of the underlying Cython channel.
    """
    state = channel._channel.check_connectivity_state(False)  # type: ignore[attr-defined]
    return bool(state == grpc.ChannelConnectivity.READY.value[0])
