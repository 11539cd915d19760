"""Starts the server as a process."""

import asyncio
import json
import os
import random
import signal
import socket
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import IO


def animora_environment(**options: str) -> dict[str, str]:
    """This process' environment with these options, named without ANIMORA_, and no other options."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANIMORA_")}
    return inherited | {f"ANIMORA_{name}": value for name, value in options.items()}


async def start(
    *arguments: str, stderr: int | IO[str] = asyncio.subprocess.PIPE, **options: str
) -> asyncio.subprocess.Process:
    """Starts `animora-server` with these arguments and options; stdout is a pipe."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "animora_server", *arguments),
        env=animora_environment(**options),
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


async def listening_port(process: asyncio.subprocess.Process) -> int:
    """Reads the log until the server reports its gRPC port, and returns the port."""
    return (await listening_ports(process))[0]


async def listening_ports(process: asyncio.subprocess.Process) -> tuple[int, int]:
    """Reads the log until the server reports its ports, and returns that of gRPC and that of HTTP."""
    assert process.stderr is not None
    async for line in process.stderr:
        if b'"listening"' in line:
            event = json.loads(line)
            return event["grpc_port"], event["http_port"]
    raise AssertionError("the server ended before it listened")


def unused_port() -> int:
    """A free port outside the ephemeral range, which stays free during a restart."""
    while True:
        with closing(socket.socket()) as probe, suppress(OSError):
            port = random.randrange(20_000, 30_000)
            probe.bind(("127.0.0.1", port))
            return port


def children(pid: int) -> list[int]:
    """The ids of a process' children."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def mapped(pid: int) -> bytes:
    """The memory map of a process, with the names of mapped files."""
    return Path(f"/proc/{pid}/maps").read_bytes()


def kill(pid: int) -> None:
    """Kills a process."""
    os.kill(pid, signal.SIGKILL)
