"""Health: whether calls can be answered, and whether the process can go on."""

import asyncio
import time

import structlog

from animora_server.batching import Batcher
from animora_server.errors import DeviceFault
from animora_server.scorer import Residency
from animora_server.scorer.work import Work
from animora_server.service import GrpcServer
from animora_server.settings import Settings
from animora_server.types import FloatArray

log = structlog.get_logger(__name__)

SUPERVISION_INTERVAL = 0.1  # seconds between looks at readiness and at the device
STALL = 5.0  # seconds without a look after which the event loop counts as dead


class Health:
    """Decides what health and readiness say, and whether the process can go on."""

    def __init__(self, residency: Residency, batcher: Batcher[Work, FloatArray], settings: Settings) -> None:
        self._residency = residency
        self._batcher = batcher
        self._settings = settings
        self._looked_at = time.monotonic()
        self.became_ready = asyncio.Event()
        self.device_failed = asyncio.Event()
        self.draining = False

    def unready(self) -> str | None:
        """Why calls cannot be answered, or None."""
        if self.draining:
            return "draining"
        if self.device_failed.is_set():
            return "the device failed"
        pin = self._residency.current()
        if pin is None:
            return "the catalog is not loaded"
        if time.monotonic() - pin.snapshot.blocks_read_at > self._settings.catalog.max_block_age:
            return "the blocks between users are too old"
        if self._settings.models.ready_requires_model and pin.active is None:
            return "no model is loaded"
        return None

    def dead(self) -> str | None:
        """Why the process should be restarted, or None. Called from the probes' thread."""
        silent = time.monotonic() - self._looked_at
        return f"the event loop stands still for {silent:.1f} s" if silent > STALL else None

    async def drain(self, server: GrpcServer) -> None:
        """Takes no new work and finishes what is in flight."""
        self.draining = True
        await server.drain()

    async def leave(self, server: GrpcServer) -> None:
        """The same where others go on behind the same port."""
        self.draining = True
        await server.leave()

    @property
    def exit_status(self) -> int:
        """What the process should end with."""
        return 1 if self.device_failed.is_set() else 0

    async def supervise(self, server: GrpcServer) -> None:
        """Keeps health in step with readiness, and notices a device that hangs."""
        loop = asyncio.get_running_loop()
        while True:
            self._looked_at = time.monotonic()
            since = self._batcher.running_since
            if since is not None and loop.time() - since > self._settings.scorer.hang_timeout:
                if not self.device_failed.is_set():
                    log.error("the device hangs", seconds=loop.time() - since)
                self.device_failed.set()
                self._batcher.fail(DeviceFault("the device hangs"))  # the heuristic answers those in flight
            ready = self.unready() is None
            await server.set_serving(ready)
            if ready:
                self.became_ready.set()
            await asyncio.sleep(SUPERVISION_INTERVAL)
