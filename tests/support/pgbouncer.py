"""A real PgBouncer in front of a database."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from animora_database import parse_dsn
from animora_demo.embedded.account import unprivileged_account
from animora_demo.embedded.process import ChildProcess, Program, bring_up

BINARY = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
PORT = 6432

CONFIGURATION = """
[databases]
* = host={host} port=5432 user=animora

[pgbouncer]
listen_addr =
listen_port = {port}
unix_socket_dir = {directory}
auth_type = any
pool_mode = {mode}
default_pool_size = {size}
"""


class PgBouncer:
    """A running PgBouncer.

    Attributes:
        pid: The process' id.
    """

    def __init__(self, directory: Path, child: ChildProcess) -> None:
        self.pid = child.pid
        self._directory = directory

    def url(self, database_url: str) -> str:
        """The connection string of the same database through this PgBouncer."""
        return through(self._directory, database_url)


@asynccontextmanager
async def pgbouncer(directory: Path, database_url: str, mode: str, size: int) -> AsyncIterator[PgBouncer]:
    """Starts a PgBouncer in front of a database.

    Args:
        directory: An empty one.
        database_url: Of a database.
        mode: Of pooling: session, transaction or statement.
        size: How many connections to PostgreSQL it has for a database, at most.
    """
    assert BINARY is not None
    ((host, _),) = parse_dsn(database_url).hosts
    configuration = directory / "pgbouncer.ini"
    configuration.write_text(
        CONFIGURATION.format(host=host, port=PORT, directory=directory, mode=mode, size=size)
    )
    account = unprivileged_account()
    if account is not None:
        for path in (directory, configuration):
            shutil.chown(path, account.uid, account.gid)
    program = Program([BINARY, configuration], directory, directory / "pgbouncer.log", account=account)

    async def answers() -> bool:
        try:
            connection = await asyncpg.connect(through(directory, database_url), timeout=5)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    child = await bring_up(program, answers)
    try:
        yield PgBouncer(directory, child)
    finally:
        await child.stop()


def through(directory: Path, database_url: str) -> str:
    name = parse_dsn(database_url).arguments["database"]
    return f"postgresql://animora@/{name}?host={directory}&port={PORT}&sslmode=disable"
