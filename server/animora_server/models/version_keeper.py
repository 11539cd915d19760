"""Keeps the versions of experiments on the device, beside the active one."""

from collections.abc import Callable, Collection
from typing import Protocol

import structlog

from animora_artifact import Artifact
from animora_server.background import BackgroundLoop, LoopOwner
from animora_server.models.version_loader import VersionLoader

log = structlog.get_logger(__name__)


class KeptModels(Protocol):
    """Loads versions beside the active one. See inference.ModelManager."""

    def is_kept(self, version: str) -> bool:
        """Whether a version is on the device and stays there."""
        ...

    async def keep(self, artifact: Artifact) -> None:
        """Loads a version that then stays. Raises ArtifactRejected or ScoringFailed."""
        ...


class VersionKeeper(LoopOwner):
    """Loads versions, and loads them again when the device has lost them; an async context manager.

    It has a loop of its own, so that the active version can change while a version is loaded here.

    Args:
        versions: The versions to keep.
        loader: Reads them.
        models: Loads them onto the device.
        poll_interval: Seconds between two looks at what is loaded.
        refused: Called with the versions that could not be loaded, after each look.

    Attributes:
        loop: The background loop.
    """

    def __init__(
        self,
        versions: Collection[str],
        loader: VersionLoader,
        models: KeptModels,
        poll_interval: float,
        refused: Callable[[Collection[str]], object],
    ) -> None:
        self._versions = sorted(versions)
        self._loader = loader
        self._models = models
        self._poll_interval = poll_interval
        self._refused = refused
        self.loop = BackgroundLoop("version-keeper", self._check)

    async def _check(self) -> float:
        for version in self._versions:
            if not self._models.is_kept(version) and self._loader.is_due(version):
                if await self._loader.load(version, self._models.keep) is not None:
                    log.info("model version loaded beside the active one", version=version)
                self._refused([each for each in self._versions if self._loader.is_refused(each)])
        return self._poll_interval
