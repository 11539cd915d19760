"""Watches the store's ACTIVE pointer and has a new version verified, loaded and swapped in."""

import asyncio
from types import TracebackType
from typing import Protocol, Self

import structlog

from animora_artifact import Artifact, ArtifactRejected, ModelStore, StoreUnavailable, VersionNotFound
from animora_server.background import log_task_failure, stop
from animora_server.errors import ScoringFailed
from animora_server.metrics import ModelMetrics

log = structlog.get_logger(__name__)


class Models(Protocol):
    """Where versions are loaded to."""

    @property
    def active_version(self) -> str | None:
        """The version that answers."""
        ...

    async def activate(self, artifact: Artifact) -> None:
        """Lets a version answer. Raises ArtifactRejected or ScoringFailed."""
        ...


class ModelWatcher:
    """Polls a store; whatever is wrong with it or with a version, the version that answers stays."""

    def __init__(
        self, store: ModelStore, models: Models, poll_interval: float, metrics: ModelMetrics
    ) -> None:
        self._store = store
        self._models = models
        self._poll_interval = poll_interval
        self._metrics = metrics
        self._unfit: str | None = None
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Starts to watch."""
        self._task = asyncio.create_task(self._run(), name="model-watcher")
        log_task_failure(self._task, "the model store is no longer watched")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops to watch."""
        await stop(self._task)

    async def _run(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(self._poll_interval)

    async def _look(self) -> None:
        """Follows the pointer; a version that is unfit is not tried again until the pointer moves."""
        version = None
        try:
            version = await asyncio.to_thread(self._store.active)
            if version != self._unfit:
                self._unfit = None
            if version is None or version in (self._models.active_version, self._unfit):
                return
            artifact = await asyncio.to_thread(self._store.read, version)
            await self._models.activate(artifact)
        except StoreUnavailable as error:
            self._metrics.store_errors.inc()
            log.warning("the model store cannot be read", error=str(error))
        except VersionNotFound as error:
            self._refuse(version, "not_found", str(error))
        except ArtifactRejected as error:
            self._unfit = version
            self._refuse(version, error.reason.value, str(error))
        except ScoringFailed as error:
            self._refuse(version, "device", str(error))
        else:
            self._metrics.activations.inc()
            self._metrics.active(version, artifact.manifest.created_at.timestamp())
            log.info("a model answers", version=version)

    def _refuse(self, version: str | None, reason: str, detail: str) -> None:
        self._metrics.rejections.labels(reason).inc()
        log.error("a model is refused", version=version, reason=reason, detail=detail)
