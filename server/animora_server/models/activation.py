"""Makes a version the active one: verifies it, writes `ACTIVE`, and waits until this server serves it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from animora_artifact import (
    ANYTHING,
    ActivationLost,
    Artifact,
    ArtifactRejected,
    ModelStore,
    SignerMissing,
    StoreUnavailable,
    VersionNotFound,
)
from animora_artifact.errors import RejectionReason
from animora_artifact.pointer import Expected
from animora_server.background import stop
from animora_server.errors import (
    ActiveChanged,
    ActiveNotSigned,
    CallError,
    ModelNotFound,
    ModelRefused,
    ModelStoreUnavailable,
    ScoringFailed,
)
from animora_server.models.model_store import readable_active
from animora_server.models.watcher import ModelWatcher

log = structlog.get_logger(__name__)

# Checks a version as it will be checked before it serves. Raises ArtifactRejected or ScoringFailed.
Verify = Callable[[Artifact], Awaitable[object]]


class ModelActivator:
    """Activates versions. An activation goes on when its caller has gone, and equal calls share one.

    Args:
        store: The model store, which may be written to.
        watcher: Follows `ACTIVE` in this server.
        is_resident: Whether a version is loaded in this server, so that it has passed all checks.
        verify: Checks a version that is not.
    """

    def __init__(
        self, store: ModelStore, watcher: ModelWatcher, is_resident: Callable[[str], bool], verify: Verify
    ) -> None:
        self._store = store
        self._watcher = watcher
        self._is_resident = is_resident
        self._verify = verify
        self._verifying = asyncio.Lock()  # one at a time: a version takes several times its size in memory
        self._running: dict[tuple[str, Expected], asyncio.Task[None]] = {}

    async def activate(self, version: str, expected: Expected = ANYTHING) -> None:
        """Makes a version the active one, and returns when this server serves it.

        Args:
            version: The version.
            expected: The version that must be active so far, None for none; ANYTHING for no condition. Not
                checked if `version` is active already.

        Raises:
            CallError: Why the version is not active, or not in this server.
        """
        key = version, expected
        task = self._running.get(key)
        if task is None:
            task = self._running[key] = asyncio.create_task(
                self._activate(version, expected), name="activation"
            )
            task.add_done_callback(lambda ended: self._end(key, ended))
        await asyncio.shield(task)

    @property
    def running(self) -> int:
        """How many activations are under way."""
        return len(self._running)

    async def aclose(self) -> None:
        """Cancels activations that have not ended; what they have written to the store stays."""
        for task in list(self._running.values()):
            await stop(task)

    def _end(self, key: tuple[str, Expected], task: asyncio.Task[None]) -> None:
        del self._running[key]
        if task.cancelled():
            return
        error = task.exception()  # also raised in callers that still wait
        if error is None:
            log.info("activation ended", version=key[0])
        elif isinstance(error, CallError):
            log.warning("activation failed", version=key[0], error=str(error))
        else:
            log.error("activation failed", version=key[0], exc_info=error)

    async def _activate(self, version: str, expected: Expected) -> None:
        try:
            if await asyncio.to_thread(readable_active, self._store) != version:
                if not self._is_resident(version):
                    await self._check(version)
                await asyncio.to_thread(self._store.activate, version, expected)
                log.info("ACTIVE written", version=version)
        except VersionNotFound as error:
            raise ModelNotFound(version) from error
        except SignerMissing as error:
            raise ActiveNotSigned from error
        except ArtifactRejected as error:
            raise ModelRefused(version, error.reason.value, error.detail) from error
        except ActivationLost as error:
            raise ActiveChanged(error.active) from error
        except (StoreUnavailable, OSError) as error:
            log.warning("model store failed an activation", version=version, error=str(error))
            raise ModelStoreUnavailable from error
        await self._watcher.follow(version)

    async def _check(self, version: str) -> None:
        """Reads and verifies a version. Raises ArtifactError or ModelRefused."""
        async with self._verifying:
            try:
                await self._verify(await asyncio.to_thread(self._store.read, version))
            except ScoringFailed as error:
                raise ModelRefused(version, "device", str(error)) from error
            except MemoryError as error:
                reason = RejectionReason.MEMORY.value
                raise ModelRefused(version, reason, "there is not enough memory to read it") from error
