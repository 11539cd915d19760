import os
import pwd
import signal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from animora_demo.embedded import EmbeddedError, EmbeddedPostgres
from animora_demo.embedded.binaries import find_postgres

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root lends another account")


async def fetch(server, query):
    connection = await asyncpg.connect(server.url, timeout=10)
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def directory_of(server):
    """The directory that a server was given, where it needed no other."""
    host = parse_qs(urlsplit(server.url).query)["host"]
    return Path(host[0]).parent


async def test_data_and_address_outlive_a_stop(embedded_postgres):
    server = await embedded_postgres()
    address = server.url
    await fetch(server, "create table kept as select 7 as value")
    await server.stop()
    await server.start()
    assert server.url == address
    assert await fetch(server, "select value from kept") == 7


async def test_data_and_address_outlive_a_kill_with_clients_connected(embedded_postgres):
    server = await embedded_postgres()
    address, first = server.url, server.pid
    await fetch(server, "create table kept as select 7 as value")
    client = await asyncpg.connect(address)
    await server.kill()
    await server.start()
    assert (server.url, server.pid != first) == (address, True)
    assert await fetch(server, "select value from kept") == 7
    client.terminate()


async def test_starting_a_running_server_changes_nothing(embedded_postgres):
    server = await embedded_postgres()
    before = server.pid
    await server.start()
    assert server.pid == before


async def test_a_second_server_in_the_same_directory_is_refused(embedded_postgres):
    server = await embedded_postgres()
    with pytest.raises(EmbeddedError, match="another server runs"):
        await EmbeddedPostgres(directory_of(server)).start()
    assert await fetch(server, "select 1") == 1


async def test_a_frozen_server_does_not_answer_until_it_thaws(embedded_postgres, frozen):
    server = await embedded_postgres()
    client = await asyncpg.connect(server.url)
    with frozen(server.pid), pytest.raises(TimeoutError):
        await client.fetchval("select 1", timeout=0.05)
    assert await fetch(server, "select 1") == 1
    client.terminate()


async def test_a_server_whose_main_process_is_frozen_can_be_stopped(embedded_postgres):
    server = await embedded_postgres()
    os.kill(server.pid, signal.SIGSTOP)
    await server.stop()
    with pytest.raises(OSError, match=r"\.s\.PGSQL|No such file"):
        await asyncpg.connect(server.url)


async def test_an_absent_program_is_an_error_that_says_what_to_install(tmp_path):
    with pytest.raises(EmbeddedError, match=r"pip install 'animora-ranking\[embedded\]'"):
        await EmbeddedPostgres(tmp_path, binary=tmp_path / "postgres").start()


async def test_a_server_that_does_not_come_up_is_an_error_with_its_last_lines(embedded_postgres):
    server = await embedded_postgres()
    await server.stop()
    version = directory_of(server) / "data" / "PG_VERSION"
    found = version.read_text()
    version.write_text("9.1\n")
    with pytest.raises(EmbeddedError, match="incompatible with server"):
        await server.start()
    version.write_text(found)


async def test_an_interrupted_first_start_is_repeated(server_directory):
    directory = server_directory / "interrupted"
    (directory / "initialising" / "half").mkdir(parents=True)
    directory.chmod(0o711)
    async with EmbeddedPostgres(directory) as server:
        assert await fetch(server, "select 1") == 1


@root_only
async def test_started_by_root_postgres_runs_as_an_unprivileged_account(shared_postgres):
    owner = os.stat(f"/proc/{shared_postgres.pid}").st_uid
    assert pwd.getpwuid(owner).pw_name in {"postgres", "nobody"}


async def test_a_long_path_is_served_from_a_short_one_and_found_again(tmp_path, forgotten_homes):
    directory = tmp_path / ("long-" * 20)
    async with EmbeddedPostgres(directory) as server:
        forgotten_homes.append((directory / "elsewhere").resolve())
        await fetch(server, "create table kept as select 7 as value")
        address = server.url
    async with EmbeddedPostgres(directory) as server:
        assert server.url == address
        assert await fetch(server, "select value from kept") == 7


@root_only
async def test_neither_data_nor_program_need_be_reachable_for_the_lent_account(tmp_path, forgotten_homes):
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    package = find_postgres().parents[2]
    (private / package.name).symlink_to(package)
    (private / f"{package.name}.libs").symlink_to(package.with_name(f"{package.name}.libs"))
    program = private / find_postgres().relative_to(package.parent)
    async with EmbeddedPostgres(private / "data", binary=program) as server:
        home = (private / "data" / "elsewhere").resolve()
        forgotten_homes.append(home)
        assert await fetch(server, "select 1") == 1
        assert os.readlink(f"/proc/{server.pid}/exe").startswith(str(home))
    assert private.stat().st_mode & 0o777 == 0o700
