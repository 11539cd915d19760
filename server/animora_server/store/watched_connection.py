"""Detects dead connections: terminates a connection that is open but that PostgreSQL no longer serves.

A connection whose other end vanished without a reset (a firewall, a failover, a hanging proxy) is silent, and
so is a connection with a slow query. A probe over a second connection distinguishes them.
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

SILENCE_TIMEOUT = 2.0  # seconds of silence before a probe, and the probe's timeout
COPY_TIMEOUT = 7 * 86_400.0  # effectively none for a whole COPY, because only silence is limited

# Whether a server process works for its client: it is neither idle nor waiting for the client.
IS_WORKING = """
select coalesce(state = 'active' and wait_event_type is distinct from 'Client', true)
from pg_catalog.pg_stat_activity
where pid = {pid}
"""


class WatchedConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that is terminated when it is found dead, so that the waiting call fails at once.

    `execute`, `fetch`, `fetchrow` and `copy_from_query` raise StoreError.
    """

    __slots__ = ("_silence",)

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._silence: SilenceWatch | None = None

    def watch(self, connector: Connector) -> None:
        """Starts watching for silence.

        Args:
            connector: Opens another connection to the same database.
        """
        self._silence = SilenceWatch(self, connector)

    def set_server_pid(self, pid: int) -> None:
        """Sets the server process of the connection, which a pooler changes with each transaction."""
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
        self, *arguments: Any, output: Callable[[bytes], Awaitable[None]], timeout: float, **options: Any
    ) -> Any:
        """See asyncpg; `timeout` limits each silence, not the whole COPY. Raises what `output` raises."""
        loop = asyncio.get_running_loop()
        failure: Exception | None = None

        async def receive(data: bytes) -> None:
            nonlocal failure
            if self._silence is not None:
                self._silence.end()  # PostgreSQL waits for this process during `output`
            limit.reschedule(None)
            try:
                await output(data)
            except Exception as error:
                failure = error
                raise
            limit.reschedule(loop.time() + timeout)
            if self._silence is not None:
                self._silence.begin()

        try:
            with self._waiting():
                async with asyncio.timeout(timeout) as limit:
                    return await super().copy_from_query(
                        *arguments, output=receive, timeout=COPY_TIMEOUT, **options
                    )
        except StoreError:
            if failure is not None:  # no error of PostgreSQL
                raise failure from None
            raise

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        with translate_errors():
            if self._silence is None:
                yield
                return
            self._silence.begin()
            try:
                yield
            finally:
                self._silence.end()


class SilenceWatch:
    """Terminates a silent connection if a probe over another connection finds its server process not working.

    If the probe cannot connect either, the connection is kept, since there is no better one.

    Args:
        connection: The connection to watch.
        connector: Opens another connection to the same database.

    Attributes:
        pid: The server process of the connection; 0 if unknown. A pooler changes it.
    """

    def __init__(self, connection: asyncpg.Connection, connector: Connector) -> None:
        self.pid = 0
        self._connection = connection
        self._connector = connector
        self._waiting_since: float | None = None  # the event loop's time; None while not waiting
        self._timer: asyncio.TimerHandle | None = None
        self._probe_task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Starts waiting for an answer, or for the next part of one."""
        loop = asyncio.get_running_loop()
        self._waiting_since = loop.time()
        if self._timer is None and self._probe_task is None:
            self._timer = loop.call_later(SILENCE_TIMEOUT, self._check)

    def end(self) -> None:
        """Ends the waiting."""
        self._waiting_since = None

    def close(self) -> None:
        """Stops watching."""
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
            log.debug("silent connection not probed", error=str(error))
            works = True
        except Exception:  # the edge of the task: a bug must not end the watching
            log.exception("probe of a silent connection failed")
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
            StoreError: PostgreSQL does not answer over another connection either.
        """
        with translate_errors():
            async with asyncio.timeout(SILENCE_TIMEOUT):
                other = await self._connector.connect()
                try:
                    async with other.transaction(
                        readonly=True
                    ):  # so that a pooler uses one server connection
                        return bool(await other.fetchval(IS_WORKING.format(pid=self.pid)))
                finally:
                    other.terminate()
