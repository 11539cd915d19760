"""Runs `animora-client` as a process."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

# A shell that runs the tests in the background has its children ignore Ctrl-C.
PROGRAM = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("animora_client", run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


async def start(command: str, *arguments: str | Path, **environment: str) -> asyncio.subprocess.Process:
    """Starts the command with pipes; its timeout is long, unless the arguments have another."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", PROGRAM, command, "--timeout", "10", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"COLUMNS": "120"} | environment,
    )


async def run(command: str, *arguments: str | Path, stdin: str = "", **environment: str) -> Finished:
    """Runs the command to its end."""
    process = await start(command, *arguments, **environment)
    return await finish(process, stdin)


async def finish(process: asyncio.subprocess.Process, stdin: str = "") -> Finished:
    """Waits for the end of the process."""
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


def interrupt(process: asyncio.subprocess.Process) -> None:
    """Sends Ctrl-C."""
    process.send_signal(signal.SIGINT)
