"""The embedded servers when their parent is killed, or runs as an unprivileged user."""

import os
import pwd
import select
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from animora_demo.embedded.account import Account
from animora_demo.embedded.binaries import find_postgres
from tests.support.until import HANG_TIMEOUT

PARENT = """
import asyncio, concurrent.futures.thread, os, sys
from pathlib import Path
from animora_demo.embedded import EmbeddedPostgres, EmbeddedRedis

async def main(directory):
    async with EmbeddedPostgres(directory / "pg") as postgres, EmbeddedRedis(directory / "redis") as redis:
        print(postgres.pid, redis.pid, flush=True)
        await asyncio.to_thread(sys.stdin.read)

if len(sys.argv) > 2:  # only now: the interpreter may be out of that user's reach
    os.setgroups([])
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[2]))
asyncio.run(main(Path(sys.argv[1])))
"""


def start_parent(*arguments):
    """Starts a process that starts both servers; returns it and their process ids."""
    command = [sys.executable, "-c", PARENT, *map(str, arguments)]
    parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout
    return parent, [int(pid) for pid in parent.stdout.readline().split()]


def wait_for_end(descriptors):
    """Waits until the processes behind some pidfds, which need not be children, have ended."""
    for descriptor in descriptors:
        readable, _, _ = select.select([descriptor], [], [], 10)
        assert readable, "a server outlived its parent by ten seconds"


@pytest.fixture
def directory(server_directory, tmp_path_factory):
    path = server_directory / tmp_path_factory.mktemp("parent").name
    path.mkdir()
    path.chmod(0o777)
    return path


def test_servers_end_when_their_parent_is_killed(directory):
    parent, pids = start_parent(directory)
    with parent, ExitStack() as stack:
        descriptors = [os.pidfd_open(pid) for pid in pids]
        for descriptor in descriptors:
            stack.callback(os.close, descriptor)
        assert len(descriptors) == 2
        parent.send_signal(signal.SIGKILL)
        wait_for_end(descriptors)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unprivileged_user_runs_both_servers(directory):
    nobody = pwd.getpwnam("nobody")
    account = Account(nobody.pw_uid, nobody.pw_gid)
    programs = (find_postgres(), Path(sys.executable).resolve())
    if not all(account.can_enter(program.parent) for program in programs):
        pytest.skip("nobody may not enter this environment")
    parent, pids = start_parent(directory, nobody.pw_uid, nobody.pw_gid)
    with parent:
        assert [os.stat(f"/proc/{pid}").st_uid for pid in pids] == [nobody.pw_uid] * 2
        parent.communicate(timeout=HANG_TIMEOUT)
    assert parent.returncode == 0
