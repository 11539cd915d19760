"""A program that serves calls from a device that answers one after the other.

It prints its port. At the end of its input it ends, and prints how many calls a second the device answered.
"""

import asyncio
import sys
import time

from prometheus_client import CollectorRegistry

from animora_server.observability.metrics import Metrics
from animora_server.program import exempt_from_garbage_collection, run
from animora_server.service import METHODS, SERVICE_NAME, GrpcServer
from animora_server.service.admission import AdmissionController
from animora_server.service.calls import CallHandler
from animora_server.settings import GrpcSettings

DEVICE_SECONDS = 0.005  # a call
ANSWER = b"answer"


class SlowDevice:
    """Answers one call after another; knows how long they took it."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self.calls = 0
        self.busy_seconds = 0.0

    async def answer(self, data: bytes, call: object) -> bytes:
        """The method of all calls."""
        async with self._lock:
            started = time.perf_counter()
            await asyncio.sleep(DEVICE_SECONDS)
            self.busy_seconds += time.perf_counter() - started
            self.calls += 1
        return ANSWER


async def serve() -> int:
    """Serves until the end of the input. Returns the exit status."""
    metrics = Metrics(CollectorRegistry(), SERVICE_NAME, METHODS)
    handler = CallHandler(AdmissionController(4096, 1_000_000), metrics.calls, 60.0)
    device = SlowDevice()
    methods = dict.fromkeys(METHODS, device.answer)
    exempt_from_garbage_collection()
    async with GrpcServer(GrpcSettings(port=0, drain_delay=0, drain_grace=1), handler, methods) as server:
        print(server.port, flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)
    print(device.calls / device.busy_seconds)  # noqa: T201
    return 0


if __name__ == "__main__":
    run(serve())
