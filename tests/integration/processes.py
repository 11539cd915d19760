"""The server as a process of its own."""

import asyncio
import os
import sys
from typing import IO


def environment(**options: str) -> dict[str, str]:
    """This process' environment with these options of Animora, and no others."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANIMORA_")}
    return inherited | {f"ANIMORA_{name}": value for name, value in options.items()}


async def start(
    *arguments: str, stderr: int | IO[str] = asyncio.subprocess.PIPE, **options: str
) -> asyncio.subprocess.Process:
    """Starts `animora-server` with these arguments and options; stdout is a pipe."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "animora_server", *arguments),
        env=environment(**options),
        stdout=asyncio.subprocess.PIPE,
        stderr=stderr,
    )


async def listening_port(process: asyncio.subprocess.Process) -> int:
    """Reads the log until the server says where it listens."""
    assert process.stderr is not None
    async for line in process.stderr:
        if b'"listening"' in line:
            return int(line.split(b'"grpc_port": ')[1].split(b",")[0].rstrip(b"}\n"))
    raise AssertionError("the server ended before it listened")
