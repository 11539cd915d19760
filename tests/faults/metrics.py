"""Reads the metrics of a server in this process."""

import asyncio

from animora_server.app import Application
from tests.support.pages import get


async def metric(application: Application, name: str) -> float:
    """The sum of a metric's samples; `name` may include labels."""
    text = await asyncio.to_thread(get, application.probes.port, "/metrics")
    lines = [line for line in text.splitlines() if line.startswith((name + "{", name + " "))]
    return sum(float(line.rpartition(" ")[2]) for line in lines)
