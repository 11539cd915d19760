import asyncio
from typing import Any

from animora_server.shared_device.process import DeviceWatch
from tests.limits import HANG_TIMEOUT


class Queue:
    """A batcher in which a batch runs, or none."""

    running_since: float | None = None


async def test_a_batch_that_runs_for_too_long_is_a_failure_of_the_device():
    queue: Any = Queue()
    failed = asyncio.Event()
    async with DeviceWatch(queue, 0.2, failed), asyncio.timeout(HANG_TIMEOUT):
        loop = asyncio.get_running_loop()
        queue.running_since = loop.time()
        await failed.wait()
        assert loop.time() - queue.running_since >= 0.2


async def test_a_device_process_whose_watch_runs_is_alive():
    queue: Any = Queue()
    watch = DeviceWatch(queue, 60.0, asyncio.Event())
    async with watch:
        assert watch.liveness.dead() is None
