"""The client for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
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


class AsyncRankingClient:
    """Calls an Animora server over a channel that is open in the `async with` block.

    Concurrent tasks can share one client. `Connection` documents the arguments.
    """

    def __init__(self, target: str = DEFAULT_TARGET, **options: Unpack[ClientOptions]) -> None:
        self._connection = Connection(target, **options)
        self._load = LoadControl(self._connection.channel)
        self._channel: grpc.aio.Channel | None = None
        self._stub: ranking_pb2_grpc.RankingServiceAsyncStub | None = None

    async def __aenter__(self) -> Self:
        self._channel = open_channel(self._connection, self._connection.ranking_arguments())
        self._stub = ranking_pb2_grpc.RankingServiceStub(self._channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        channel, self._channel, self._stub = self._channel, None, None
        if channel is not None:
            await channel.close()

    async def rank(
        self,
        user_id: int,
        post_ids: Collection[int],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        priority: Priority | None = None,
        **options: Unpack[RankOptions],
    ) -> Ranking:
        """Ranks posts for a user, best first.

        Args:
            user_id: The user to rank for.
            post_ids: The candidates, 1 to 10,000.
            timeout: Seconds the call may take, including retries; None for the client's timeout.
            metadata: gRPC metadata of the call, for example `x-request-id` or `traceparent`.
            priority: Whether an overloaded server refuses the call first; None for the client's priority.
            options: `limit`, `exclude_seen` and so on; see `RankRequest`.

        Raises:
            RankingError: The call failed; `animora_client.errors` lists the subclasses.
            ValueError: A number does not fit its field.
            TypeError: An id is not an integer.
        """
        call = rank_call(RankRequest(user_id, post_ids, **options))
        return await self._invoke(call, self._connection.call(timeout, metadata, priority))

    async def batch_rank(
        self,
        requests: Sequence[RankRequest],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        priority: Priority | None = None,
    ) -> tuple[Ranking | RankingError, ...]:
        """Ranks for up to 256 requests in one call.

        Returns:
            For each request its ranking, or the error of that request as a value.

        Raises:
            RankingError: The call failed as a whole.
            ValueError: A number does not fit its field.
            TypeError: An id is not an integer.
        """
        call = batch_rank_call(requests)
        return await self._invoke(call, self._connection.call(timeout, metadata, priority))

    async def timeline_page(
        self,
        user_id: int,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        priority: Priority | None = None,
        **options: Unpack[TimelineOptions],
    ) -> TimelinePage:
        """Gets one page of a user's timeline; `next_page_token` of the page names the next one.

        Args:
            user_id: The user whose timeline to get.
            timeout: Seconds the call may take, including retries; None for the client's timeout.
            metadata: gRPC metadata of the call, for example `x-request-id` or `traceparent`.
            priority: Whether an overloaded server refuses the call first; None for the client's priority.
            options: `page_size`, `page_token` and so on; see `TimelineRequest`.

        Raises:
            SnapshotGone: The timeline of the token no longer exists: start over without a token, and
                exclude the posts that were shown.
            RankingError: The call failed.
            ValueError: A number does not fit its field.
            TypeError: An id is not an integer.
        """
        request = TimelineRequest(user_id, **options)
        return await self._get_page(request, self._connection.call(timeout, metadata, priority))

    def timeline(
        self,
        user_id: int,
        *,
        limit: int = 0,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        priority: Priority | None = None,
        **options: Unpack[TimelineOptions],
    ) -> "AsyncTimeline":
        """A user's timeline, best first, fetched page by page during iteration.

        If the server loses the timeline meanwhile, the iteration continues with a new one, without repeats.

        Args:
            user_id: The user whose timeline to get.
            limit: Posts at most; 0 for all. Without a `page_size`, pages are as long as the limit and the
                server allow.
            timeout: Seconds that each page may take, including retries; None for the client's timeout.
            metadata: gRPC metadata of each page's call.
            priority: The priority of each page's call; None for the client's priority.
            options: As for `timeline_page`. With a `page_token`, a lost timeline raises `SnapshotGone`,
                because the client does not know which posts were shown before.

        Raises:
            ValueError: The timeout is not above 0, or not finite.
        """
        # Rejects a wrong timeout here, not with the first page.
        self._connection.call(timeout, metadata, priority)

        async def get_page(request: TimelineRequest) -> TimelinePage:
            return await self._get_page(request, self._connection.call(timeout, metadata, priority))

        return AsyncTimeline(get_page, TimelineRequest(user_id, **options), limit)

    async def health(self, service: str = SERVICE, *, timeout: float | None = None) -> Health:
        """Gets the health of one server behind the target.

        Args:
            service: A service name; empty for the whole server.
            timeout: Seconds the call may take; None for the client's timeout.

        Raises:
            RankingError: The call failed.
        """
        async with open_channel(self._connection, self._connection.probe_arguments()) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            arguments = self._connection.call(timeout)
            return await invoke(stub, health_call(service), arguments, lambda: is_connected(channel))

    @property
    def counts(self) -> CallCounts:
        """How many calls were sent, refused, retried and held back since the client was made."""
        return self._load.counts

    async def _get_page(self, request: TimelineRequest, arguments: CallArguments) -> TimelinePage:
        return await self._invoke(timeline_call(request), arguments)

    async def _invoke(self, call: UnaryCall[Result], arguments: CallArguments) -> Result:
        stub, attempts = self._service(), self._load.start(arguments)
        while True:
            try:
                result = await invoke(stub, call, attempts.next(), self._is_connected)
            except RankingError as error:
                delay = attempts.retry_delay(error)
                if delay is None:
                    raise
            else:
                attempts.answered()
                return result
            await asyncio.sleep(delay)

    def _is_connected(self) -> bool:
        return self._channel is not None and is_connected(self._channel)

    def _service(self) -> "ranking_pb2_grpc.RankingServiceAsyncStub":  # a type that exists in the stubs only
        if self._stub is None:
            raise RuntimeError("the client is not open: make calls inside its `async with` block")
        return self._stub


class AsyncTimeline:
    """A user's timeline: `async for` yields posts, `pages` yields pages. Each loop begins at the first page.

    Loops raise what `AsyncRankingClient.timeline_page` raises. They raise `SnapshotGone` only if the server
    loses timelines faster than they yield new posts, and `ValueError` also for a limit below 0.
    """

    def __init__(
        self,
        get_page: Callable[[TimelineRequest], Awaitable[TimelinePage]],
        first: TimelineRequest,
        limit: int,
    ) -> None:
        self._get_page = get_page
        self._first = first
        self._limit = limit

    async def __aiter__(self) -> AsyncIterator[RankedPost]:
        async for page in self.pages():
            for post in page:
                yield post

    async def pages(self) -> AsyncIterator[TimelinePage]:
        """The pages, without posts of earlier pages; a page may be empty."""
        scroll = Scroll(self._first, self._limit)
        while (request := scroll.request) is not None:
            try:
                page = await self._get_page(request)
            except SnapshotGone:
                if not scroll.start_over():
                    raise
            else:
                yield scroll.take(page)


async def invoke(
    stub: object, call: UnaryCall[Result], arguments: CallArguments, connected: Callable[[], bool]
) -> Result:
    """Makes a call. Raises RankingError."""
    with typed_errors(connected):
        response = await getattr(stub, call.method)(call.message, **arguments)
    return call.read(response)


def open_channel(connection: Connection, arguments: ChannelArguments) -> grpc.aio.Channel:
    """A channel, which connects at the first call."""
    if connection.tls is None:
        return grpc.aio.insecure_channel(connection.target, arguments)
    return grpc.aio.secure_channel(connection.target, connection.tls.credentials(), arguments)


def is_connected(channel: grpc.aio.Channel) -> bool:
    """Whether the channel has a ready connection."""
    return channel.get_state() is grpc.ChannelConnectivity.READY
