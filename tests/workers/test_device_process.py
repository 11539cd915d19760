import asyncio
from typing import Any

import pytest

from animora_server.background import Liveness
from animora_server.workers.device_process import watching
from tests.support.until import HANG_TIMEOUT


class FakeBatcher:
    """A batcher whose running batch started some seconds ago."""

    def __init__(self) -> None:
        self.seconds = 0
        self.checked = asyncio.Event()

    @property
    def running_since(self) -> float:
        self.checked.set()
        return asyncio.get_running_loop().time() - self.seconds


@pytest.mark.failure(14)
async def test_a_batch_that_exceeds_the_hang_timeout_fails_the_device():
    batcher: Any = FakeBatcher()
    failed = asyncio.Event()
    async with asyncio.timeout(HANG_TIMEOUT), watching(batcher, 1000.0, failed) as loop:
        for _ in range(2):  # when the second check begins, the first one has ended
            await batcher.checked.wait()
            batcher.checked.clear()
        assert not failed.is_set()
        batcher.seconds = 1001
        await failed.wait()
        assert Liveness(loop).dead() is None
