"""Signals end a program in order, also while it starts and where it is the first process of a container."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.processes import children
from tests.support.until import HANG_TIMEOUT

PROGRAMS = ("animora_server", "animora_training")
SLOW_IMPORT = "import os\nos.write(1, b'importing')\nimport time\ntime.sleep(3600)\n"
AS_FIRST_PROCESS = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")


def can_be_first() -> bool:
    return (
        shutil.which("unshare") is not None
        and subprocess.run([*AS_FIRST_PROCESS, "true"], capture_output=True, check=False).returncode == 0
    )


@asynccontextmanager
async def importing(folder: Path, program: str, *before: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The server or the trainer, which has begun a slow import."""
    (folder / "typer.py").write_text(SLOW_IMPORT)
    process = await asyncio.create_subprocess_exec(
        *(*before, sys.executable, "-m", program, "--help"),
        env=os.environ | {"PYTHONPATH": str(folder)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(HANG_TIMEOUT):
            assert await process.stdout.read(9) == b"importing"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_during_imports_ends_the_program(tmp_path: Path, program: str, number: signal.Signals):
    async with importing(tmp_path, program) as process, asyncio.timeout(HANG_TIMEOUT):
        process.send_signal(number)
        assert await process.wait() == 128 + number


@pytest.mark.skipif(not can_be_first(), reason="no right to make a namespace of processes (unshare)")
@pytest.mark.parametrize("program", PROGRAMS)
async def test_sigterm_during_imports_ends_the_first_process_of_a_container(tmp_path: Path, program: str):
    async with importing(tmp_path, program, *AS_FIRST_PROCESS) as unshare, asyncio.timeout(HANG_TIMEOUT):
        (first,) = children(unshare.pid)
        os.kill(first, signal.SIGTERM)
        assert await unshare.wait() == 128 + signal.SIGTERM


def names_of_ending_signals(ignored: signal.Signals | None) -> str:
    def ignore() -> None:
        if ignored is not None:
            signal.signal(ignored, signal.SIG_IGN)

    program = "from animora_process.signals import *; print(*(each.name for each in ending_signals()))"
    return subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=ignore,  # the shell's nohup does the same
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_sighup_ends_a_server_unless_it_was_started_by_nohup():
    assert names_of_ending_signals(None) == "SIGTERM SIGINT SIGHUP"
    assert names_of_ending_signals(signal.SIGHUP) == "SIGTERM SIGINT"
