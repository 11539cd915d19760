"""Terminates connections that PostgreSQL no longer answers, though they are open.

A connection whose other end is gone without a reset (a firewall that dropped it, a failover, a proxy that
hangs) is silent, and so is one on which PostgreSQL runs a slow query. A probe over a second connection tells
them apart.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import structlog

from animora_server.errors import StoreError
from animora_server.store.connection import Connector, translate_errors

log = structlog.get_logger(__name__)

SILENCE_TIMEOUT = (
    2.0  # seconds of silence after which a second connection probes the first, and for the probe
)

# Whether a session works for its client; one that is idle, or waits for its client, does not.
IS_WORKING = """
select coalesce(state = 'active' and wait_event_type is distinct from 'Client', true)
from pg_catalog.pg_stat_activity
where pid = {pid}
"""


class WatchedConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that is terminated when it is waited for in vain: what waits then fails at once."""

    __slots__ = ("_silence",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._silence: SilenceWatch | None = None

    def watch(self, connector: Connector) -> None:
        """Watches from now on.

        Args:
            connector: Opens another connection to the same database.
        """
        self._silence = SilenceWatch(self, connector)

    def set_server_pid(self, pid: int) -> None:
        """The server process that works for the connection, which a pooler changes with each transaction."""
        if self._silence is not None:
            self._silence.pid = pid

    def terminate(self) -> None:
        """See asyncpg."""
        if self._silence is not None:
            self._silence.close()
        super().terminate()

    async def execute(self, *arguments: Any, **options: Any) -> Any:
        """See asyncpg."""
        with self._waiting():
            return await super().execute(*arguments, **options)

    async def fetch(self, *arguments: Any, **options: Any) -> Any:
        """See asyncpg."""
        with self._waiting():
            return await super().fetch(*arguments, **options)

    async def fetchrow(self, *arguments: Any, **options: Any) -> Any:
        """See asyncpg."""
        with self._waiting():
            return await super().fetchrow(*arguments, **options)

    async def copy_from_query(
        self, *arguments: Any, output: Callable[[bytes], Awaitable[None]], **options: Any
    ) -> Any:
        """See asyncpg."""

        async def receive(data: bytes) -> None:
            if self._silence is not None:
                self._silence.end()  # PostgreSQL waits for us meanwhile
            await output(data)
            if self._silence is not None:
                self._silence.begin()

        with self._waiting():
            return await super().copy_from_query(*arguments, output=receive, **options)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        if self._silence is None:
            yield
            return
        self._silence.begin()
        try:
            yield
        finally:
            self._silence.end()


class SilenceWatch:
    """Terminates a connection that is silent while another one learns that PostgreSQL does not work for it.

    As long as nobody answers, nothing is done: there is nothing to connect to instead.

    Args:
        connection: To watch.
        connector: Opens another one to the same database.

    Attributes:
        pid: The server process that works for the connection, where it is known. A pooler changes it.
    """

    def __init__(self, connection: asyncpg.Connection, connector: Connector) -> None:
        self.pid = 0
        self._connection = connection
        self._connector = connector
        self._waiting_since: float | None = None  # the event loop's time; None while nothing is waited for
        self._timer: asyncio.TimerHandle | None = None
        self._probe_task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """An answer is waited for, or was heard and another is waited for."""
        loop = asyncio.get_running_loop()
        self._waiting_since = loop.time()
        if self._timer is None and self._probe_task is None:
            self._timer = loop.call_later(SILENCE_TIMEOUT, self._check)

    def end(self) -> None:
        """Nothing is waited for."""
        self._waiting_since = None

    def close(self) -> None:
        """Watches no more."""
        self.end()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._probe_task is not None:
            self._probe_task.cancel()

    def _check(self) -> None:
        self._timer = None
        if self._waiting_since is None:
            return
        loop = asyncio.get_running_loop()
        left = self._waiting_since + SILENCE_TIMEOUT - loop.time()
        if left > 0:
            self._timer = loop.call_later(left, self._check)
        else:
            self._probe_task = asyncio.create_task(self._probe(self._waiting_since))

    async def _probe(self, since: float) -> None:
        try:
            works = await self._is_working()
        except StoreError as error:
            log.debug("a silent connection cannot be probed", error=str(error))
            works = True
        except Exception:  # the edge of the task: without another probe, nobody would watch any more
            log.exception("probing a silent connection failed")
            works = True
        finally:
            self._probe_task = None
        if self._waiting_since is not None:
            if not works and self._waiting_since == since:
                log.warning("connection to PostgreSQL is dead; replacing it")
                self._connection.terminate()
            else:
                self._timer = asyncio.get_running_loop().call_later(SILENCE_TIMEOUT, self._check)

    async def _is_working(self) -> bool:
        """Whether PostgreSQL works for the connection.

        Raises:
            StoreError: PostgreSQL does not answer another connection either.
        """
        with translate_errors():
            async with asyncio.timeout(SILENCE_TIMEOUT):
                other = await self._connector.connect()
                try:
                    async with other.transaction(readonly=True):  # for a pooler, of one server
                        return bool(await other.fetchval(IS_WORKING.format(pid=self.pid)))
                finally:
                    other.terminate()
