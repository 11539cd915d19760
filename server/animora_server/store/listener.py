"""Hears of blocks and deletions the moment they are committed."""

import asyncio
import random
import secrets
from collections.abc import Callable
from types import TracebackType
from typing import NoReturn, Self

import asyncpg
import structlog

from animora_server.background import log_task_failure, stop
from animora_server.catalog import Facts
from animora_server.errors import StoreError
from animora_server.metrics import CatalogMetrics
from animora_server.settings import DatabaseSettings
from animora_server.store.connection import Connector, translated
from animora_server.store.payloads import CHANNEL, read_payload

log = structlog.get_logger(__name__)

FIRST_DELAY = 0.1  # seconds before the first retry
LONGEST_DELAY = 2.0  # seconds; PostgreSQL is used again this soon after it came back
START_PATIENCE = 1.0  # seconds for which the start waits for the first connection


class FactListener:
    """Listens on a connection of its own, and hands facts on in the order of their commits.

    Facts that are heard together are handed on together. What is committed while there is no connection
    goes unheard; polls go on, and find it.

    The connection is tried with a notification to itself, since a frozen server and a pooler that gives
    each transaction another connection are both silent, and neither is an error.

    Args:
        settings: Where the database is.
        metrics: What is recorded.
        receive: Takes facts, on the event loop, so it must be quick.
        listening: Is told each time that listening has begun: what was committed before may be unheard.

    Raises:
        ConfigurationError: The connection string cannot be used.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        metrics: CatalogMetrics,
        receive: Callable[[Facts], None],
        listening: Callable[[], None],
    ) -> None:
        self._settings = settings
        direct = bool(settings.listen_url.get_secret_value())
        self._connector = Connector(
            "database.listen_url" if direct else "database.url",
            settings.listen_url if direct else settings.url,
            settings,
        )
        self._metrics = metrics
        self._receive = receive
        self._listening = listening
        self._failures = 0  # since a connection has lasted
        self._is_deaf = False  # the log says so
        self._heard: list[Facts] = []  # of this turn of the event loop
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Starts listening. Waits a moment for it, so that a load that follows need not be repeated."""
        self._task = asyncio.create_task(self._run(), name="fact-listener")
        await _within(START_PATIENCE, self._tried)
        if self._task.done():
            self._task.result()
        log_task_failure(self._task, "blocks and deletions are no longer heard of")
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops at once, whatever state the database is in."""
        await stop(self._task)

    async def _run(self) -> None:
        while True:
            try:
                await self._listen()
            except StoreError as error:
                delay = min(FIRST_DELAY * 2**self._failures, LONGEST_DELAY) * random.uniform(0.5, 1)
                self._failures = min(self._failures + 1, 10)
                if not self._is_deaf:
                    log.warning(
                        "blocks and deletions are not heard of, only polled",
                        error=str(error),
                        seconds=round(delay, 3),
                    )
                self._is_deaf = True
            finally:
                self._tried.set()
            await asyncio.sleep(delay)

    async def _listen(self) -> NoReturn:
        """Listens for as long as the connection lasts.

        Raises:
            StoreError: It failed, or there was none.
        """
        connection = await self._connector.connect()
        stirred = asyncio.Event()  # by an echo, or by the connection's end
        echo = f"{CHANNEL}_{secrets.token_hex(8)}"
        try:
            connection.add_termination_listener(lambda _: stirred.set())
            with translated():
                await connection.add_listener(CHANNEL, self._hear)
                await connection.add_listener(echo, lambda *_: stirred.set())
                await self._try(connection, echo, stirred)
                self._began()
                while True:
                    await _within(self._settings.listen_timeout, stirred)
                    await self._try(connection, echo, stirred)
                    # Not before: each beginning makes others catch up, and one may end right after it began.
                    self._failures = 0
        finally:
            self._metrics.listening.set(0)
            # Not close(), which waits for an answer.
            connection.terminate()

    async def _try(self, connection: asyncpg.Connection, echo: str, stirred: asyncio.Event) -> None:
        """Notifies the connection of something itself.

        Raises:
            TimeoutError: The server does not answer.
            InterfaceError: The connection was closed.
            StoreError: The server answers, but the notification does not arrive.
        """
        timeout = self._settings.listen_timeout
        stirred.clear()
        await connection.execute("select pg_notify($1, '')", echo, timeout=timeout)
        if not await _within(timeout, stirred):
            raise StoreError("notifications do not arrive: database.listen_url must lead past any pooler")
        stirred.clear()

    def _began(self) -> None:
        if self._is_deaf:
            log.info("blocks and deletions are heard of again")
        self._is_deaf = False
        self._metrics.listening.set(1)
        self._listening()
        self._tried.set()

    def _hear(self, _connection: asyncpg.Connection, _pid: int, _channel: str, payload: str) -> None:
        try:
            facts = read_payload(payload)
        except ValueError:
            self._metrics.notifications["unreadable"].inc()
            return
        self._metrics.notifications[payload.partition(" ")[0]].inc()
        if not self._heard:
            asyncio.get_running_loop().call_soon(self._hand_on)
        self._heard.append(facts)

    def _hand_on(self) -> None:
        facts = Facts.joined(self._heard)
        self._heard.clear()
        self._receive(facts)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether an event is set, now or within some seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
