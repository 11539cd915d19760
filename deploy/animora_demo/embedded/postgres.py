"""A private PostgreSQL: initialised once, reachable over a Unix socket, ends with its parent."""

import os
import shutil
import signal
from pathlib import Path
from urllib.parse import quote

import asyncpg

from animora_demo.embedded.account import Account, unprivileged_account
from animora_demo.embedded.binaries import find_postgres
from animora_demo.embedded.home import locked, settle
from animora_demo.embedded.installation import runnable_by
from animora_demo.embedded.process import START_TIMEOUT, ChildProcess, Program, bring_up, run_to_end
from animora_demo.embedded.server import EmbeddedServer

DATABASE = "animora"
# Part of the name of the Unix socket, `/data/.s.PGSQL.5432`; no TCP port is opened.
PORT = 5432
# Commits survive a crash of the server, but not one of the machine.
OPTIONS = {
    "listen_addresses": "",
    "port": str(PORT),
    "fsync": "off",
    "full_page_writes": "off",
    "dynamic_shared_memory_type": "mmap",
    "max_connections": "100",
    "log_min_messages": "warning",
}


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL in a private directory.

    An existing data directory is reused. If this process runs as root, the server runs under an unprivileged
    account. Data and address survive `stop` and `kill`.
    """

    NAME = "PostgreSQL"

    @property
    def url(self) -> str:
        """The DSN of the database `animora`, for asyncpg."""
        return self.database_url(DATABASE)

    def database_url(self, database: str) -> str:
        """The DSN of a database of this server, for the superuser."""
        host = quote(str(self._started_home() / "data"))
        return f"postgresql://animora@/{database}?host={host}&port={PORT}&sslmode=disable"

    async def _launch(self) -> ChildProcess:
        postgres = find_postgres(self._binary)
        account = unprivileged_account()
        home = self._home = settle(self._directory, account)
        data = home / "data"
        async with locked(home) as lock:
            if account:
                postgres = await runnable_by(account, postgres, home)
            if not (data / "PG_VERSION").exists():
                await _initialise(postgres.parent / "initdb", data, account)
            options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
            program = Program(
                command=[postgres, "-D", data, f"--unix-socket-directories={data}", *options],
                directory=data,
                log=home / "postgres.log",
                stop_signal=signal.SIGINT,  # a fast shutdown; SIGTERM would wait for the clients
                account=account,
                inherits=(lock,),
            )
            return await bring_up(program, self._answers)

    async def _answers(self) -> bool:
        """Whether the server accepts connections; creates the database if it is missing."""
        try:
            connection = await asyncpg.connect(self.database_url("postgres"), timeout=START_TIMEOUT)
        except (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError):
            return False
        try:
            if not await connection.fetchval("select 1 from pg_database where datname = $1", DATABASE):
                await connection.execute(f"create database {DATABASE}")
        finally:
            await connection.close()
        return True


async def _initialise(initdb: Path, data: Path, account: Account | None) -> None:
    """Creates the data directory. It is renamed last, so an existing one is complete."""
    partial = data.with_name("initialising")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    if account:
        os.chown(partial, account.uid, account.gid)
    options = ["--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--username=animora"]
    log = data.with_name("initdb.log")
    await run_to_end(Program([initdb, "-D", partial, *options], partial, log, account=account))
    partial.rename(data)
