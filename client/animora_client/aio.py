"""The client for asyncio."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
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


class AsyncRankingClient:
    """Ranks posts over a channel that lives as long as the `async with` block.

    One client serves any number of tasks at once. `Connection` says what the arguments mean.
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
        **options: Unpack[RankOptions],
    ) -> Ranking:
        """Orders posts for a user, best first.

        Args:
            user_id: Whose taste counts.
            post_ids: The candidates, 1 to 10,000.
            timeout: Seconds the call may take, retries included; the client's where None.
            metadata: Sent along, for example `x-request-id` or `traceparent`.
            options: `limit`, `exclude_seen` and so on, as `RankRequest` says.

        Raises:
            RankingError: The call failed; `animora_client.errors` draws the tree.
            ValueError: A number does not fit its field.
            TypeError: An id is not an integer.
        """
        message = rank_message(RankRequest(user_id, post_ids, **options))
        with typed_errors(self._is_connected):
            response = await self._service().Rank(message, **self._connection.call(timeout, metadata))
        return read_ranking(response)

    async def batch_rank(
        self,
        requests: Sequence[RankRequest],
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> tuple[Ranking | RankingError, ...]:
        """Ranks up to 256 lists in one call.

        Returns:
            For each request its ranking, or the error that it alone met: a value, not raised.

        Raises:
            RankingError: The call failed as a whole.
            ValueError: A number does not fit its field.
            TypeError: An id is not an integer.
        """
        message = batch_message(requests)
        with typed_errors(self._is_connected):
            response = await self._service().BatchRank(message, **self._connection.call(timeout, metadata))
        return read_batch(response, len(requests))

    async def timeline_page(
        self,
        user_id: int,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Unpack[TimelineOptions],
    ) -> TimelinePage:
        """Gets one page of a user's feed; its `next_page_token` leads to the next.

        Args:
            user_id: Whose feed.
            timeout: Seconds the call may take, retries included; the client's where None.
            metadata: Sent along, for example `x-request-id` or `traceparent`.
            options: `page_size`, `page_token` and so on, as `TimelineRequest` says.

        Raises:
            SnapshotGone: The list that the token pins is no longer there: start over without a token, and
                exclude what was shown.
            RankingError: The call failed.
            ValueError: A number does not fit its field.
            TypeError: An id is not an integer.
        """
        request = TimelineRequest(user_id, **options)
        return await self._get_page(request, self._connection.call(timeout, metadata))

    def timeline(
        self,
        user_id: int,
        *,
        limit: int = 0,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        **options: Unpack[TimelineOptions],
    ) -> "AsyncTimeline":
        """A user's feed, best first, asked for page by page while it is read.

        Where the server loses the list meanwhile, reading goes on with a new one, without repeats.

        Args:
            user_id: Whose feed.
            limit: Posts at most; 0 for all. Where no `page_size` is given, pages are as long as
                that and the server allow.
            timeout: Seconds that each page may take, retries included; the client's where None.
            metadata: Sent along with each page's call.
            options: As for `timeline_page`. With a `page_token` a list that is gone raises `SnapshotGone`,
                because what was shown before is not known here.

        Raises:
            ValueError: The timeout is not above 0, or not finite.
        """
        call = self._connection.call(timeout, metadata)
        return AsyncTimeline(partial(self._get_page, call=call), TimelineRequest(user_id, **options), limit)

    async def health(self, service: str = SERVICE, *, timeout: float | None = None) -> Health:
        """Asks one server behind the target whether it serves; an empty name stands for all it offers.

        Raises:
            RankingError: Nobody answered.
        """
        async with open_channel(self._connection, self._connection.probe_arguments()) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            with typed_errors(lambda: is_connected(channel)):
                response = await stub.Check(health_message(service), **self._connection.call(timeout, None))
        return read_health(response)

    async def _get_page(self, request: TimelineRequest, call: CallArguments) -> TimelinePage:
        message = timeline_message(request)
        with typed_errors(self._is_connected):
            response = await self._service().GetTimeline(message, **call)
        return read_page(response)

    def _is_connected(self) -> bool:
        return self._channel is not None and is_connected(self._channel)

    def _service(self) -> "ranking_pb2_grpc.RankingServiceAsyncStub":  # a type that stubs alone know
        if self._stub is None:
            raise RuntimeError("the client is not open: make calls inside its `async with` block")
        return self._stub


class AsyncTimeline:
    """A user's feed: `async for` gives its posts, `pages` its pages. Each loop begins at the first page.

    Loops raise what `AsyncRankingClient.timeline_page` does, `SnapshotGone` only where the server loses lists
    faster than they give new posts, and `ValueError` also for a limit below 0.
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
        """The pages, without posts that an earlier one had; one may be empty."""
        scroll = Scroll(self._first, self._limit)
        while (request := scroll.request) is not None:
            try:
                page = await self._get_page(request)
            except SnapshotGone:
                if not scroll.start_over():
                    raise
            else:
                yield scroll.take(page)


def open_channel(connection: Connection, arguments: ChannelArguments) -> grpc.aio.Channel:
    """A channel that connects at its first call."""
    if connection.tls is None:
        return grpc.aio.insecure_channel(connection.target, arguments)
    return grpc.aio.secure_channel(connection.target, connection.tls.credentials(), arguments)


def is_connected(channel: grpc.aio.Channel) -> bool:
    """Whether the channel has a connection over which calls go."""
    return channel.get_state() is grpc.ChannelConnectivity.READY
