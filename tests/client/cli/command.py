"""Runs the command `animora-client` as its users do."""

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
    """Starts it with pipes, and with patience for busy machines where the arguments ask for none."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", PROGRAM, command, "--timeout", "10", *map(str, arguments)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"COLUMNS": "120"} | environment,
    )


async def run(command: str, *arguments: str | Path, stdin: str = "", **environment: str) -> Finished:
    """Runs it to its end."""
    process = await start(command, *arguments, **environment)
    return await finish(process, stdin)


async def finish(process: asyncio.subprocess.Process, stdin: str = "") -> Finished:
    """Waits for its end."""
    out, err = await process.communicate(stdin.encode())
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


def interrupt(process: asyncio.subprocess.Process) -> None:
    """Ctrl-C."""
    process.send_signal(signal.SIGINT)
