"""Reads the pages of the server's HTTP port."""

import asyncio
import urllib.request
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError

from tests.support.until import HANG_TIMEOUT

if TYPE_CHECKING:
    from animora_server.app import Application  # many use this module without it


def get(port: int, path: str, token: str = "") -> str:
    """The text of a page, with a bearer token if there is one. Raises HTTPError for an error status."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    page = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    with urllib.request.urlopen(page, timeout=HANG_TIMEOUT) as reply:
        return str(reply.read().decode())


async def status_of(port: int, path: str) -> int | None:
    """The HTTP status of a page; None while nothing listens."""
    try:
        await asyncio.to_thread(get, port, path)
    except HTTPError as error:
        error.close()
        return error.code
    except URLError:
        return None
    return 200


async def metric(application: "Application", name: str) -> float:
    """The sum of a metric's samples of a server in this process; `name` may include labels."""
    text = await asyncio.to_thread(get, application.probes.port, "/metrics")
    lines = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
