"""Real servers for the tests: started once a session, a fresh database or an empty cache for each test."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path

import asyncpg
import pytest
import redis.asyncio
from hypothesis import HealthCheck, settings

from animora_demo.embedded import EmbeddedPostgres, EmbeddedRedis, apply_schema
from animora_demo.embedded.postgres import DATABASE
from tests.support.feed import Feed, fill
from tests.support.pgbouncer import BINARY, PgBouncer, pgbouncer
from tests.support.processes import children
from tests.support.s3_server import CREDENTIALS, S3Prefix, S3Server

# How long an example takes says more of the machine than of the code. All else stays as it is, in CI too.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# A shell that starts the tests in the background, or by `nohup`, ignores SIGINT or SIGHUP; the programs that
# the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

pytest_plugins = ["pytester", "tests.faults.table"]

TEMPLATE = "animora_template"
MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """A folder whose path is short enough for sockets and lets an unprivileged server through.

    In memory where there is room: a database is three hundred files, and each test has its own.
    """
    directory = _fresh_directory(MEMORY if _has_room(MEMORY) else Path("/tmp"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def shared_postgres(server_directory: Path) -> Iterator[EmbeddedPostgres]:
    """The session's PostgreSQL, with a template database that has the schema."""
    postgres = EmbeddedPostgres(server_directory / "postgres")

    async def start() -> None:
        await postgres.start()
        await _execute(postgres.url, f"create database {TEMPLATE}")
        await apply_schema(postgres.database_url(TEMPLATE))

    # An embedded server is bound to no event loop, so the tests' own loops need not outlive them.
    try:
        asyncio.run(start())
        yield postgres
    finally:
        asyncio.run(postgres.stop())


@pytest.fixture(scope="session")
def shared_redis(server_directory: Path) -> Iterator[EmbeddedRedis]:
    """The session's Redis."""
    server = EmbeddedRedis(server_directory / "redis")
    try:
        asyncio.run(server.start())
        yield server
    finally:
        asyncio.run(server.stop())


@pytest.fixture(scope="session")
def database_names() -> Iterator[str]:
    return (f"test_{number}" for number in count())


@pytest.fixture
async def empty_postgres_url(
    shared_postgres: EmbeddedPostgres, database_names: Iterator[str]
) -> AsyncIterator[str]:
    """DSN of a database of this test's own, with nothing in it."""
    name = next(database_names)
    await _execute(shared_postgres.url, f"create database {name}")
    yield shared_postgres.database_url(name)
    await _execute(shared_postgres.url, f"drop database {name} with (force)")


@pytest.fixture
async def postgres_url(
    shared_postgres: EmbeddedPostgres, database_names: Iterator[str]
) -> AsyncIterator[str]:
    """DSN of a database of this test's own, with Animora's tables, views and role, and no rows."""
    name = next(database_names)
    await _execute(shared_postgres.url, f"create database {name} template {TEMPLATE}")
    yield shared_postgres.database_url(name)
    await _execute(shared_postgres.url, f"drop database {name} with (force)")


@pytest.fixture
async def feed(postgres_url: str) -> Feed:
    """The database of `postgres_url`, filled with the small feed."""
    return await fill(postgres_url)


@pytest.fixture
async def redis_url(shared_redis: EmbeddedRedis) -> str:
    """URL of an empty Redis."""
    async with redis.asyncio.from_url(shared_redis.url) as client:
        await client.flushall()
    return shared_redis.url


@pytest.fixture(scope="session")
def free_postgres_directories() -> list[Path]:
    """Initialised directories that no test uses now: a start in one takes a tenth of a first one."""
    return []


@pytest.fixture
async def embedded_postgres(
    server_directory: Path, free_postgres_directories: list[Path]
) -> AsyncIterator[Callable[[], Awaitable[EmbeddedPostgres]]]:
    """Starts a PostgreSQL of this test's own, with nothing in it, to be killed, stopped or frozen."""
    async with AsyncExitStack() as stack:

        async def start() -> EmbeddedPostgres:
            free = free_postgres_directories
            directory = free.pop() if free else _fresh_directory(server_directory)
            stack.callback(free.append, directory)
            postgres = await stack.enter_async_context(EmbeddedPostgres(directory))
            template = postgres.database_url("template1")
            await _execute(template, f"drop database {DATABASE} with (force)")
            await _execute(template, f"create database {DATABASE}")
            return postgres

        yield start


@pytest.fixture
async def pooled(
    server_directory: Path, postgres_url: str
) -> AsyncIterator[Callable[[str, int], Awaitable[PgBouncer]]]:
    """Starts a PgBouncer, of a mode and a number of connections, before the database of `postgres_url`."""
    if BINARY is None:
        pytest.skip("PgBouncer is not installed")
    async with AsyncExitStack() as stack:

        async def start(mode: str, size: int) -> PgBouncer:
            directory = _fresh_directory(server_directory)
            stack.callback(shutil.rmtree, directory)
            return await stack.enter_async_context(pgbouncer(directory, postgres_url, mode, size))

        yield start


@pytest.fixture
async def embedded_redis(server_directory: Path) -> AsyncIterator[Callable[[], Awaitable[EmbeddedRedis]]]:
    """Starts a Redis of this test's own, to be killed, stopped or frozen."""
    async with AsyncExitStack() as stack:

        async def start() -> EmbeddedRedis:
            directory = _fresh_directory(server_directory)
            stack.callback(shutil.rmtree, directory)
            return await stack.enter_async_context(EmbeddedRedis(directory))

        yield start


@pytest.fixture(scope="session")
def shared_s3() -> Iterator[S3Server]:
    """The session's S3."""
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(shared_s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Prefix:
    """A prefix in an empty bucket of this test's own; the environment has credentials."""
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return shared_s3.prefix()


@pytest.fixture
def frozen() -> Callable[[int], AbstractContextManager[None]]:
    """Stops (SIGSTOP) a process and all its children for as long as the context lasts."""

    @contextmanager
    def freeze(pid: int) -> Iterator[None]:
        stopped: list[int] = []
        try:
            pending = [pid]
            while pending:
                process = pending.pop()
                with suppress(ProcessLookupError, FileNotFoundError):  # a child that has just ended
                    os.kill(process, signal.SIGSTOP)
                    stopped.append(process)
                    # Only one that stands still has no more children.
                    while _state(process) not in {"T", "Z"}:
                        os.sched_yield()
                    pending += children(process)
            yield
        finally:
            for process in stopped:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)

    return freeze


def _has_room(directory: Path) -> bool:
    """Whether servers may keep their data there, and programs be run there: PostgreSQL may need a copy."""
    if not directory.is_dir():
        return False
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize > 4 << 30 and not status.f_flag & os.ST_NOEXEC


def _fresh_directory(parent: Path) -> Path:
    directory = Path(tempfile.mkdtemp(prefix="animora-", dir=parent))
    directory.chmod(0o711)
    return directory


def _state(pid: int) -> str:
    """The kernel's letter for a process' state: T for stopped, Z for ended."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
