"""Health: readiness (whether calls can be served) and liveness (whether the process must be restarted)."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import structlog

from animora_server.background import BackgroundLoop, Liveness
from animora_server.batching import Batcher
from animora_server.errors import DeviceFault
from animora_server.inference.model_manager import ModelManager
from animora_server.inference.requests import InferenceRequest
from animora_server.scoring.serving_state import ServingState
from animora_server.service import GrpcServer
from animora_server.settings import Settings
from animora_server.types import FloatArray

log = structlog.get_logger(__name__)

SUPERVISION_INTERVAL = 0.1  # seconds between checks of readiness and of the device


class SharedDevice(Protocol):
    """The interface of `shared_device.remote_device.RemoteDevice` that health needs."""

    @property
    def is_connected(self) -> bool:
        """Whether the device can be called."""
        ...

    def disconnect(self, why: str) -> None:
        """Fails all waiting work, and connects again."""
        ...


class HealthState:
    """Decides readiness and liveness, and keeps gRPC health in step with readiness.

    Args:
        model_manager: The loaded models and the serving state.
        batcher: The queue for the device.
        settings: All options.
        shared: The shared device, or None for a device of this process. The faults of a shared device do not
            end this process.
        before_serving: Called once, before health is SERVING for the first time.
    """

    def __init__(
        self,
        model_manager: ModelManager,
        batcher: Batcher[InferenceRequest, FloatArray],
        settings: Settings,
        shared: SharedDevice | None = None,
        before_serving: Callable[[], object] = lambda: None,
    ) -> None:
        self._model_manager = model_manager
        self._before_serving = before_serving
        self._batcher = batcher
        self._settings = settings
        self._shared = shared
        self._server: GrpcServer | None = None
        self._reason: str | None = "starting"  # as last logged
        self.supervision = BackgroundLoop("supervision", self._supervise)
        self.liveness = Liveness(self.supervision)
        self.became_ready = asyncio.Event()
        self._became_ready_at = math.inf  # time.monotonic()
        self.device_failed = asyncio.Event()
        self.draining = False

    def unready(self) -> str | None:
        """Why the server is not ready, or None."""
        if self.draining:
            return "draining"
        if reason := self.dead() or self._device_problem():
            return reason
        state = self._model_manager.states.latest
        if state is None:
            return "the catalog is not loaded"
        if self._model_manager.states.has_old_blocks(state):
            return "the blocks between users are too old"
        if self._settings.models.ready_requires_model and self._lacks_model(state):
            return "no model is loaded"
        return None

    def unready_to_probes(self) -> str | None:
        """Why a rollout should not go on to the next server yet, or None: the check of /readyz.

        For `grpc.ready_delay` after health first said SERVING, clients reconnect. If the next server drained
        before, they would have none.
        """
        if reason := self.unready():
            return reason
        if time.monotonic() - self._became_ready_at < self._settings.grpc.ready_delay:
            return "clients have not had grpc.ready_delay seconds to connect"
        return None

    def dead(self) -> str | None:
        """Why the process should be restarted, or None. Called from the probes' thread."""
        return self.liveness.dead()

    async def drain(self, server: GrpcServer) -> None:
        """Stops accepting calls, and finishes calls in flight."""
        self.draining = True
        await server.drain()

    async def leave(self, server: GrpcServer) -> None:
        """Drains where other workers keep serving on the same port."""
        self.draining = True
        await server.leave()

    @property
    def exit_status(self) -> int:
        """The exit status of the process: 1 after a device fault, else 0."""
        return 1 if self.device_failed.is_set() else 0

    def _device_problem(self) -> str | None:
        """Why the device cannot score, or None."""
        if self.device_failed.is_set():
            return "the device failed"
        if self._shared is not None and not self._shared.is_connected:
            return "the device process is away"
        return None

    def _lacks_model(self, state: ServingState) -> bool:
        return state.active is None or self._model_manager.active_version is None

    def _device_hangs(self, seconds: float) -> None:
        """Fails the queued and running work, so that the heuristic answers its requests."""
        if self._shared is not None:
            log.error("the shared device hangs", seconds=seconds)
            self._shared.disconnect("the device hangs")
            return
        if not self.device_failed.is_set():
            log.error("the device hangs", seconds=seconds)
        self.device_failed.set()
        self._batcher.fail(DeviceFault("the device hangs"))

    @asynccontextmanager
    async def supervising(self, server: GrpcServer) -> AsyncIterator[None]:
        """Keeps gRPC health in step with readiness, and detects a device that hangs."""
        self._server = server
        self.supervision.start()
        try:
            yield
        finally:
            await self.supervision.stop()

    async def _supervise(self) -> float:
        assert self._server is not None  # set by supervising
        now, since = asyncio.get_running_loop().time(), self._batcher.running_since
        if since is not None and now - since > self._settings.scorer.hang_timeout:
            self._device_hangs(now - since)
        reason = self.unready()
        if not self.draining:
            self._log_change(reason)
        becomes_ready = reason is None and not self.became_ready.is_set()
        if becomes_ready:
            self._before_serving()
        await self._server.set_alive(self.dead() is None)
        await self._server.set_serving(reason is None)
        if becomes_ready:
            self._became_ready_at = time.monotonic()
            self.became_ready.set()
        return SUPERVISION_INTERVAL

    def _log_change(self, reason: str | None) -> None:
        if reason is None and self._reason is not None:
            log.info("health is SERVING")
        elif reason is not None and reason != self._reason:
            # While the server starts, not being ready is expected.
            level = logging.WARNING if self.became_ready.is_set() else logging.INFO
            log.log(level, "health is NOT_SERVING", reason=reason)
        self._reason = reason
