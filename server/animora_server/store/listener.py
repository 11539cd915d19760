"""LISTEN: receives blocks and deletions, which PostgreSQL notifies when they are committed."""

import asyncio
import secrets
import socket
from collections.abc import Callable
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

START_TIMEOUT = 1.0  # seconds that the start waits for the first connection
POOLER_CHECK_INTERVAL = 60.0  # seconds between two notifications sent by another connection
POLLING_BACKOFF = Backoff(first=1.0, longest=60.0)  # after a PollingOnly


class PollingOnly(StoreError):
    """Notifications cannot be used now: they do not arrive, or more arrive than can be applied."""


class EventListener:
    """Listens on a separate connection and passes on change events, an async context manager.

    Commits are not notified while there is no connection; the polls find them.

    A connection counts as listening once it has received a notification sent by another connection. Behind a
    pooler that gives each transaction another server connection, it would receive only its own notifications.
    From then on it regularly notifies itself, because a frozen server is silent but raises no error.

    Args:
        settings: The database.
        metrics: Records notifications, and whether the connection listens.
        receive: Takes events on the event loop, so it must be quick. Returns whether more may follow.
        catch_up: Called when events may have been missed, so that a reading must find them.

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
        self._pauses = 0  # consecutive pauses without notifications
        self._first_attempt = asyncio.Event()
        self.loop = BackgroundLoop("fact-listener", self._round)

    async def __aenter__(self) -> Self:
        """Starts listening and waits up to START_TIMEOUT for it, so that a following load is complete."""
        self.loop.start()
        await _wait_within(START_TIMEOUT, self._first_attempt)
        return self

    async def __aexit__(self, *error: object) -> None:
        """Stops at once, without waiting for the database."""
        await self.loop.stop()

    async def _round(self) -> float:
        """Listens until the connection ends. Returns the seconds to rely on polls alone."""
        try:
            await self._listen()
        except PollingOnly as error:
            self._pauses += 1
            pause = POLLING_BACKOFF.delay(self._pauses)
            if self._pauses & (self._pauses - 1) == 0:
                log.warning(
                    "LISTEN not usable; polling",
                    error=str(error),
                    pauses=self._pauses,
                    retry_seconds=round(pause, 3),
                )
            return pause
        finally:
            self._first_attempt.set()

    async def _listen(self) -> NoReturn:
        """Connects and listens until the connection ends.

        Raises:
            PollingOnly: Notifications cannot be used now.
            StoreError: The connection could not be opened, or it failed.
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
            # Not close(), which waits for the server's answer.
            connection.terminate()
            session.batcher.close()
            if session.batcher.overflowed:
                self._metrics.notifications["dropped"].inc(session.batcher.dropped)
                self._catch_up()

    def _reset_pauses(self) -> None:
        """Resets the backoff, because the connection has lasted."""
        self.loop.succeeded()
        if self._pauses:
            log.info("LISTEN usable again")
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
    """One listening connection, whose delivery is checked regularly.

    Args:
        connection: The connection, used for nothing else.
        connector: Opens another connection to the same database.
        apply: See NotificationBatcher.
        timeout: Seconds in which an echo must arrive, and between two echoes.

    Attributes:
        batcher: Batches the received notifications.
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
        self._wake = asyncio.Event()  # set by an echo, an overflow or the connection's end
        self._pooler_checked_at = float("-inf")  # the event loop's time
        self.batcher = NotificationBatcher(connection.transport, apply, on_overflow=self._wake.set)

    async def start(self) -> None:
        """Listens and checks the delivery. Raises as `wait`."""
        _limit_receive_buffer(self._connection.transport)
        self._connection.add_termination_listener(lambda _: self._wake.set())
        with translate_errors():
            await self._connection.add_listener(CHANNEL, lambda *arrived: self.batcher.add(arrived[-1]))
            await self._connection.add_listener(self._echo, lambda *_: self._wake.set())
        await self._check_delivery()

    async def wait(self) -> None:
        """Waits for `timeout` or an event, then checks the delivery.

        Raises:
            PollingOnly: An echo does not arrive, or more notifications arrive than can be applied.
            StoreError: The connection failed, or PostgreSQL did not answer.
        """
        await _wait_within(self._timeout, self._wake)
        await self._check_delivery()

    async def _check_delivery(self) -> None:
        if not await self._echo_arrives(self._connection):
            raise PollingOnly("notifications do not arrive: database.listen_url must lead past any pooler")
        if asyncio.get_running_loop().time() - self._pooler_checked_at > POOLER_CHECK_INTERVAL:
            await self._check_for_pooler()

    async def _check_for_pooler(self) -> None:
        """Checks an echo sent by another connection. A pooler would deliver it to no idle client."""
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
        """Whether a notification sent by a connection arrives here."""
        self._raise_if_unusable()
        self._wake.clear()
        with translate_errors():
            # Without arguments: a pooler might send them to another server than the statement.
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
        """Tries to stop a pooler's server connection from listening, since another client will get it."""
        try:
            with translate_errors():
                await self._connection.execute("unlisten *", timeout=self._timeout)
        except StoreError as error:
            log.debug("UNLISTEN failed", error=str(error))


class ListeningConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that exposes its transport, so that reading can be paused."""

    __slots__ = ("transport",)

    def __init__(self, protocol: Any, transport: asyncio.Transport, *arguments: Any) -> None:
        super().__init__(protocol, transport, *arguments)
        self.transport = transport


def _limit_receive_buffer(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    if (
        sock is not None and sock.family != socket.AF_UNIX
    ):  # on a Unix socket the sender's buffer is the limit
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)


async def _wait_within(seconds: float, event: asyncio.Event) -> bool:
    """Waits for an event for at most some seconds; returns whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        # After a stall of the event loop the timeout may fire before received data is processed.
        await asyncio.sleep(0)
    return event.is_set()
