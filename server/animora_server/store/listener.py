"""Listens for blocks and deletions, which PostgreSQL notifies the moment they are committed."""

import asyncio
import secrets
import socket
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn, Self

import asyncpg
import structlog

from animora_server.background import BackgroundLoop, Backoff
from animora_server.catalog import ChangeEvents
from animora_server.errors import StoreError
from animora_server.observability.metrics import CatalogMetrics
from animora_server.settings import DatabaseSettings
from animora_server.store.connection import Connector, translate_errors
from animora_server.store.notifications import CHANNEL, RECEIVE_BYTES, NotificationBatcher, read_payload

log = structlog.get_logger(__name__)

START_TIMEOUT = 1.0  # seconds for which the start waits for the first connection
POOLER_CHECK_INTERVAL = 60.0  # seconds after which another connection tries again whether it is heard
# After notifications that do not arrive, or arrive too fast. Nothing but polls would follow sooner attempts.
POLLING_BACKOFF = Backoff(first=1.0, longest=60.0)


class PollingOnly(StoreError):
    """Notifications cannot be used for now: they do not arrive, or more than can be applied do."""


class EventListener:
    """Listens on a connection of its own, and hands facts on.

    What is committed while there is no connection is not notified; polls go on, and find it.

    A connection counts as listening once it has received a notification that another connection sent: behind
    a pooler that gives each transaction another connection, its own would arrive and others' would not. From
    then on it notifies itself now and then, since a frozen server is silent, which is no error.

    Args:
        settings: Where the database is.
        metrics: What is recorded.
        receive: Takes facts, on the event loop, so it must be quick. Returns whether more may follow.
        catch_up: Is called when facts may have been missed, so that a reading must find them.

    Attributes:
        loop: Keeps the connection.

    Raises:
        ConfigurationError: The connection string cannot be used.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        metrics: CatalogMetrics,
        receive: Callable[[ChangeEvents], bool],
        catch_up: Callable[[], None],
    ) -> None:
        self._timeout = settings.listen_timeout
        direct = bool(settings.listen_url.get_secret_value())
        self._connector = Connector(
            "database.listen_url" if direct else "database.url",
            settings.listen_url if direct else settings.url,
            settings,
        )
        self._metrics = metrics
        self._receive = receive
        self._catch_up = catch_up
        self._pauses = 0  # in a row, in which there are polls only
        self._first_attempt = asyncio.Event()
        self.loop = BackgroundLoop("fact-listener", self._round)

    async def __aenter__(self) -> Self:
        """Starts listening. Waits a moment for it, so that a load that follows need not be repeated."""
        self.loop.start()
        await _wait_within(START_TIMEOUT, self._first_attempt)
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops at once, whatever state the database is in."""
        await self.loop.stop()

    async def _round(self) -> float:
        """Listens for as long as the connection lasts. Returns how long to leave it to polls after that."""
        try:
            await self._listen()
        except PollingOnly as error:
            self._pauses += 1
            pause = POLLING_BACKOFF.delay(self._pauses)
            if self._pauses & (self._pauses - 1) == 0:
                log.warning(
                    "notifications of blocks and deletions cannot be used; polling",
                    error=str(error),
                    pauses=self._pauses,
                    retry_seconds=round(pause, 3),
                )
            return pause
        finally:
            self._first_attempt.set()

    async def _listen(self) -> NoReturn:
        """Listens for as long as the connection lasts.

        Raises:
            PollingOnly: Notifications cannot be used for now.
            StoreError: The connection failed, or there was none.
        """
        connection = await self._connector.connect(connection_class=ListeningConnection)
        session = ListenSession(connection, self._connector, self._apply, self._timeout)
        try:
            await session.start()
            self._metrics.listening.set(1)
            self._catch_up()
            self._first_attempt.set()
            while True:
                await session.wait()
                self._reset_pauses()
        finally:
            self._metrics.listening.set(0)
            # Not close(), which waits for an answer.
            connection.terminate()
            session.batcher.close()
            if session.batcher.overflowed:
                self._metrics.notifications["dropped"].inc(session.batcher.dropped)
                self._catch_up()

    def _reset_pauses(self) -> None:
        """The connection has lasted, so that the attempt after its end need not be late."""
        self.loop.succeeded()
        if self._pauses:
            log.info("notifications of blocks and deletions are used again")
        self._pauses = 0

    def _apply(self, payloads: list[str]) -> bool:
        events = []
        for payload in payloads:
            try:
                events.append(read_payload(payload))
            except ValueError:
                self._metrics.notifications["unreadable"].inc()
            else:
                self._metrics.notifications[payload.partition(" ")[0]].inc()
        return self._receive(ChangeEvents.merged(events)) if events else True


class ListenSession:
    """A connection that listens: how it is tried, and how its end is noticed.

    Args:
        connection: Does nothing else.
        connector: Opens another one to the same database.
        apply: See NotificationBatcher.
        timeout: Seconds in which a notification must arrive, and between two that it sends itself.

    Attributes:
        batcher: What has arrived.
    """

    def __init__(
        self,
        connection: "ListeningConnection",
        connector: Connector,
        apply: Callable[[list[str]], bool],
        timeout: float,
    ) -> None:
        self._connection = connection
        self._connector = connector
        self._timeout = timeout
        self._echo = f"{CHANNEL}_{secrets.token_hex(8)}"
        self._wake = asyncio.Event()  # by an echo, an overflow or the connection's end
        self._pooler_checked_at = float("-inf")  # the event loop's time
        self.batcher = NotificationBatcher(connection.transport, apply, on_overflow=self._wake.set)

    async def start(self) -> None:
        """Listens, and makes sure that notifications arrive; raises as `wait` does."""
        _limit_receive_buffer(self._connection.transport)
        self._connection.add_termination_listener(lambda _: self._wake.set())
        with translate_errors():
            await self._connection.add_listener(CHANNEL, lambda *arrived: self.batcher.add(arrived[-1]))
            await self._connection.add_listener(self._echo, lambda *_: self._wake.set())
        await self._check_delivery()

    async def wait(self) -> None:
        """Waits for a moment, then makes sure that notifications still arrive.

        Raises:
            PollingOnly: One does not arrive, or more arrive than can be applied.
            StoreError: The connection failed, or PostgreSQL does not answer.
        """
        await _wait_within(self._timeout, self._wake)
        await self._check_delivery()

    async def _check_delivery(self) -> None:
        if not await self._echo_arrives(self._connection):
            raise PollingOnly("notifications do not arrive: database.listen_url must lead past any pooler")
        if asyncio.get_running_loop().time() - self._pooler_checked_at > POOLER_CHECK_INTERVAL:
            await self._check_for_pooler()

    async def _check_for_pooler(self) -> None:
        """Has another connection notify this one, which is idle meanwhile, as a pooler would notice."""
        other = await self._connector.connect()
        try:
            arrived = await self._echo_arrives(other)
        finally:
            other.terminate()
        if not arrived:
            await self._unlisten()
            raise PollingOnly(
                "notifications of other connections do not arrive, as behind a pooler that gives each "
                "transaction another connection: set database.listen_url to a connection past it"
            )
        self._pooler_checked_at = asyncio.get_running_loop().time()

    async def _echo_arrives(self, sender: asyncpg.Connection) -> bool:
        """Whether a notification of a connection arrives here."""
        self._raise_if_unusable()
        self._wake.clear()
        with translate_errors():
            # Without arguments, which a pooler might give to another server than the statement they are for.
            await sender.execute(f"select pg_notify('{self._echo}', '')", timeout=self._timeout)
        arrived = await _wait_within(self._timeout, self._wake)
        self._raise_if_unusable()
        self._wake.clear()
        return arrived

    def _raise_if_unusable(self) -> None:
        if self.batcher.overflowed:
            raise PollingOnly("more arrive than can be applied")
        if self._connection.is_closed():
            raise StoreError("PostgreSQL ended the connection")

    async def _unlisten(self) -> None:
        """As far as it can be done, has a pooler's connection not listen on for its next client."""
        try:
            with translate_errors():
                await self._connection.execute("unlisten *", timeout=self._timeout)
        except StoreError as error:
            log.debug("a connection of a pooler listens on", error=str(error))


class ListeningConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that gives away its transport, so that reading can pause."""

    __slots__ = ("transport",)

    def __init__(self, protocol: Any, transport: asyncio.Transport, *arguments: Any) -> None:
        super().__init__(protocol, transport, *arguments)
        self.transport = transport


def _limit_receive_buffer(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:  # there the sender's buffer is the bound
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)


async def _wait_within(seconds: float, event: asyncio.Event) -> bool:
    """Whether an event is set, now or within some seconds."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        # After a stall of the event loop, the time may be over before what has arrived is seen.
        await asyncio.sleep(0)
    return event.is_set()
