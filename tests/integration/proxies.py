"""Real proxies before two servers, with the settings that docs/client.md gives."""

import asyncio
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.documented import PAGE, replaced

# Debian installs nginx into sbin.
NGINX = shutil.which("nginx", path=f"{os.defpath}:/usr/sbin:/usr/local/sbin")
# `make envoy` installs Envoy beside Python.
ENVOY = shutil.which("envoy", path=Path(sys.executable).parent) or shutil.which("envoy")
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy.

    Attributes:
        target: Address for clients.
        includes: Waits until the proxy sends calls to the server at a port.
    """

    target: str
    includes: Callable[[int], Awaitable[None]]


async def at_once(port: int) -> None:
    """Returns: nginx tries the server again by itself."""


@asynccontextmanager
async def nginx(directory: Path, ports: Sequence[int]) -> AsyncIterator[Proxy]:
    """Runs nginx before servers at two ports, with its files and its socket in the directory."""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    socket, log = directory / "nginx.sock", directory / "error.log"
    configuration = directory / "nginx.conf"
    configuration.write_text(
        f"""
        daemon off;
        pid {directory}/nginx.pid;
        error_log {log};
        {"user root;" if os.getuid() == 0 else ""}
        events {{}}
        http {{
            access_log off;
            {" ".join(f"{kind}_temp_path {directory}/{kind};" for kind in TEMPORARY)}
            {_documented("nginx", ports, {"listen 50051": f"listen unix:{socket}"})}
        }}
        """
    )
    async with _running(log, NGINX, "-p", directory, "-c", configuration):
        yield Proxy(f"unix:{socket}", at_once)


@asynccontextmanager
async def envoy(directory: Path, ports: Sequence[int]) -> AsyncIterator[Proxy]:
    """Runs Envoy before servers at two ports, with its files and its sockets in the directory."""
    if ENVOY is None:
        pytest.skip("Envoy is not installed: make envoy")
    socket, admin, log = directory / "envoy.sock", directory / "admin.sock", directory / "envoy.log"
    listener = {"socket_address: {address: 0.0.0.0, port_value: 50051}": f"pipe: {{path: {socket}}}"}
    configuration = directory / "envoy.yaml"
    configuration.write_text(
        f"admin: {{address: {{pipe: {{path: {admin}}}}}}}\n{_documented('yaml', ports, listener)}"
    )

    async def healthy(port: int) -> None:
        pattern = re.compile(rf":{port}::health_flags::healthy$", re.MULTILINE)
        while not pattern.search(await _clusters(admin)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    options = ("--log-path", log, "--log-level", "warning", "--disable-hot-restart", "--concurrency", "1")
    async with _running(log, ENVOY, "--config-path", configuration, *options):
        yield Proxy(f"unix:{socket}", healthy)


def _documented(language: str, ports: Sequence[int], changes: dict[str, str]) -> str:
    """The settings of docs/client.md for servers at these ports of this machine."""
    settings = replaced(PAGE.partition(f"```{language}\n")[2].partition("```")[0], changes)
    for number, port in enumerate(ports, 1):
        settings, count = re.subn(rf"10\.0\.0\.{number}\b(\D+)50051", rf"127.0.0.1\g<1>{port}", settings)
        assert count == 1
    return settings


@asynccontextmanager
async def _running(log: Path, program: str, *arguments: str | Path) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(program, *arguments)
    try:
        yield
        assert process.returncode is None, log.read_text()  # noqa: ASYNC240
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _clusters(admin: Path) -> str:
    """The server list of Envoy's admin interface."""
    reader, writer = await asyncio.open_unix_connection(admin)
    writer.write(b"GET /clusters HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n")
    try:
        return (await reader.read()).decode().replace("\r\n", "\n")
    finally:
        writer.close()
        await writer.wait_closed()
