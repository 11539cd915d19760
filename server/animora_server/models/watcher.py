"""Watches the store's ACTIVE pointer and has a new version verified, loaded and swapped in."""

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

import structlog

from animora_artifact import (
    Artifact,
    ArtifactError,
    ArtifactRejected,
    Pointer,
    StoreUnavailable,
    VersionNotFound,
    VersionSource,
)
from animora_artifact.errors import RejectionReason
from animora_server.background import EXPECTED, BackgroundLoop, Backoff
from animora_server.errors import ScoringFailed
from animora_server.observability.metrics import ModelMetrics

log = structlog.get_logger(__name__)

LONGEST_RETRY = 60.0  # seconds before a version that may become fit is tried again, at most


class Models(Protocol):
    """Where versions are loaded to."""

    @property
    def active_version(self) -> str | None:
        """The version that answers."""
        ...

    async def activate(self, artifact: Artifact) -> None:
        """Lets a version answer. Raises ArtifactRejected or ScoringFailed."""
        ...


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A version that was not activated.

    Attributes:
        attempts: How often it was tried.
        retry_at: When it is tried again, on the watcher's clock; infinite until the pointer moves.
    """

    attempts: int
    retry_at: float


class ModelWatcher:
    """Polls a store. Whatever is wrong with the store or a version, the version that answers stays.

    While no version answers, the ones that ACTIVE names are tried in turn. So a server that starts with a
    broken version falls back to the one that was active before.

    Args:
        store: The store.
        models: Where versions are loaded to.
        poll_interval: Seconds between looks at ACTIVE.
        metrics: Where looks, activations and refusals are counted.
        clock: Seconds.

    Attributes:
        loop: The background loop.
    """

    def __init__(
        self,
        store: VersionSource,
        models: Models,
        poll_interval: float,
        metrics: ModelMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._models = models
        self._poll_interval = poll_interval
        self._metrics = metrics
        self._clock = clock
        self._retry = Backoff(first=poll_interval, longest=max(poll_interval, LONGEST_RETRY))
        self._pointer = Pointer()
        self._refusals: dict[str, _Refusal] = {}  # of versions that the pointer names
        self._looked_at = -math.inf
        self.loop = BackgroundLoop(
            "model-watcher",
            self._look,
            expected=(*EXPECTED, ArtifactError),
            backoff=Backoff(first=poll_interval, longest=4 * poll_interval),
        )
        metrics.store_age_from(lambda: self._clock() - self._looked_at)

    async def __aenter__(self) -> Self:
        """Starts to watch."""
        self.loop.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops to watch."""
        await self.loop.stop()

    async def _look(self) -> float:
        """Follows the pointer."""
        for version in await self._named_versions():
            answering = self._models.active_version
            if version == answering:
                break
            if self._is_due(version) and await self._activate(version):
                break
            if answering is not None:
                break
        return self._poll_interval

    async def _named_versions(self) -> tuple[str, ...]:
        """The versions that ACTIVE names, the active one first.

        Raises:
            StoreUnavailable: The store cannot be read, or names none although it did before.
            ArtifactRejected: ACTIVE holds no names.
        """
        try:
            pointer = await asyncio.to_thread(self._store.pointer)
            if pointer.active is None and self._pointer.active is not None:
                raise StoreUnavailable(f"ACTIVE, which named {self._pointer.active}, has gone")
        except (ArtifactError, OSError):
            self._metrics.store_errors.inc()
            raise
        if pointer.active is not None:
            self._looked_at = self._clock()
        if pointer != self._pointer:
            self._pointer, self._refusals = pointer, {}
        return pointer.names

    def _is_due(self, version: str) -> bool:
        refusal = self._refusals.get(version)
        return refusal is None or refusal.retry_at <= self._clock()

    async def _activate(self, version: str) -> bool:
        """Lets a version answer; says whether it does."""
        try:
            artifact = await asyncio.to_thread(self._store.read, version)
            await self._models.activate(artifact)
        except (StoreUnavailable, OSError) as error:
            self._metrics.store_errors.inc()
            log.warning("model version cannot be read", version=version, error=str(error))
            self._postpone(version)
        except VersionNotFound as error:
            self._refuse(version, "not_found", str(error))
        except ArtifactRejected as error:
            self._refuse(version, error.reason.value, str(error))
            if error.reason is not RejectionReason.DIMENSIONS:  # which may be the catalog's, and change
                self._refusals[version] = _Refusal(attempts=1, retry_at=math.inf)
        except ScoringFailed as error:
            self._refuse(version, "device", str(error))
        except MemoryError:
            self._refuse(version, RejectionReason.MEMORY.value, "there is not enough memory to read it")
        except Exception:  # the edge of the loop: a version must not keep the watcher from those that follow
            log.exception("model version cannot be loaded", version=version)
            self._refuse(version, "unexpected", "an error of this program, which the log has")
        else:
            self._refusals.pop(version, None)
            self._metrics.activations.inc()
            self._metrics.active(version, artifact.manifest.created_at.timestamp())
            log.info("model activated", version=version)
            return True
        return False

    def _refuse(self, version: str, reason: str, detail: str) -> None:
        self._metrics.rejections[reason].inc()
        log.error("model version refused", version=version, reason=reason, detail=detail)
        self._postpone(version)

    def _postpone(self, version: str) -> None:
        """Tries a version again after a pause, which grows with each attempt."""
        before = self._refusals.get(version)
        attempts = 1 if before is None else before.attempts + 1
        self._refusals[version] = _Refusal(attempts, self._clock() + self._retry.delay(attempts))
