"""Health: whether calls can be answered, and whether the process can go on."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from animora_server.background import BackgroundLoop, Liveness
from animora_server.batching import Batcher
from animora_server.errors import DeviceFault
from animora_server.inference import ModelManager
from animora_server.inference.model_manager import ResidentState
from animora_server.inference.requests import InferenceRequest
from animora_server.service import GrpcServer
from animora_server.settings import Settings
from animora_server.types import FloatArray

log = structlog.get_logger(__name__)

SUPERVISION_INTERVAL = 0.1  # seconds between looks at readiness and at the device


class SharedDevice(Protocol):
    """A device that is not this process'. See scorer.remote.RemoteDevice."""

    @property
    def away(self) -> str | None:
        """Why it cannot be asked, or None."""
        ...

    def give_up(self, why: str) -> None:
        """Lets nobody wait for it any more; it may come back."""
        ...


class HealthState:
    """Decides what health and readiness say, and whether the process can go on.

    Args:
        model_manager: The models.
        batcher: The queue for the device.
        settings: All options.
        shared: The device, where it is another process': then its faults do not end this one.
    """

    def __init__(
        self,
        model_manager: ModelManager,
        batcher: Batcher[InferenceRequest, FloatArray],
        settings: Settings,
        shared: SharedDevice | None = None,
    ) -> None:
        self._model_manager = model_manager
        self._batcher = batcher
        self._settings = settings
        self._shared = shared
        self._server: GrpcServer | None = None
        self._reason: str | None = "starting"  # as last logged
        self.supervision = BackgroundLoop("supervision", self._supervise)
        self.liveness = Liveness(self.supervision)
        self.became_ready = asyncio.Event()
        self.device_failed = asyncio.Event()
        self.draining = False

    def unready(self) -> str | None:
        """Why calls cannot be answered, or None."""
        if self.draining:
            return "draining"
        if without := self.dead() or self._without_device():
            return without
        pin = self._model_manager.current()
        if pin is None:
            return "the catalog is not loaded"
        if time.monotonic() - pin.snapshot.blocks_read_at > self._settings.catalog.max_block_age:
            return "the blocks between users are too old"
        if self._settings.models.ready_requires_model and self._without_model(pin):
            return "no model is loaded"
        return None

    def dead(self) -> str | None:
        """Why the process should be restarted, or None. Called from the probes' thread."""
        return self.liveness.dead()

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

    def _without_device(self) -> str | None:
        """Why nothing can be scored, or None."""
        if self.device_failed.is_set():
            return "the device failed"
        return self._shared.away if self._shared is not None else None

    def _without_model(self, pin: ResidentState) -> bool:
        return pin.active is None or self._model_manager.active_version is None

    def _device_hangs(self, seconds: float) -> None:
        """Has the heuristic answer those in flight."""
        if self._shared is not None:
            log.error("the shared device hangs", seconds=seconds)
            self._shared.give_up("the device hangs")
            return
        if not self.device_failed.is_set():
            log.error("the device hangs", seconds=seconds)
        self.device_failed.set()
        self._batcher.fail(DeviceFault("the device hangs"))

    @asynccontextmanager
    async def supervising(self, server: GrpcServer) -> AsyncIterator[None]:
        """Keeps what gRPC health says in step with readiness, and notices a device that hangs."""
        self._server = server
        self.supervision.start()
        try:
            yield
        finally:
            await self.supervision.stop()

    async def _supervise(self) -> float:
        assert self._server is not None  # supervising sets it
        now, since = asyncio.get_running_loop().time(), self._batcher.running_since
        if since is not None and now - since > self._settings.scorer.hang_timeout:
            self._device_hangs(now - since)
        reason = self.unready()
        if not self.draining:
            self._log_change(reason)
        await self._server.set_alive(self.dead() is None)
        await self._server.set_serving(reason is None)
        if reason is None:
            self.became_ready.set()
        return SUPERVISION_INTERVAL

    def _log_change(self, reason: str | None) -> None:
        if reason is None and self._reason is not None:
            log.info("health is SERVING")
        elif reason is not None and reason != self._reason:
            # A server that starts is not ready yet: that is no warning.
            level = logging.WARNING if self.became_ready.is_set() else logging.INFO
            log.log(level, "health is NOT_SERVING", reason=reason)
        self._reason = reason
