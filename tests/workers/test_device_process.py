import asyncio
from typing import Any

from animora_server.workers.device_process import DeviceWatch
from tests.support.until import HANG_TIMEOUT


class FakeBatcher:
    """The part of a batcher that DeviceWatch reads."""

    running_since: float | None = None


async def test_a_batch_that_exceeds_the_hang_timeout_fails_the_device():
    batcher: Any = FakeBatcher()
    failed = asyncio.Event()
    async with DeviceWatch(batcher, 0.2, failed), asyncio.timeout(HANG_TIMEOUT):
        loop = asyncio.get_running_loop()
        batcher.running_since = loop.time()
        await failed.wait()
        assert loop.time() - batcher.running_since >= 0.2


async def test_a_device_process_is_alive_while_its_watch_runs():
    batcher: Any = FakeBatcher()
    watch = DeviceWatch(batcher, 60.0, asyncio.Event())
    async with watch:
        assert watch.liveness.dead() is None
