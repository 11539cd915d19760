"""Residency: which models are on the device, encoded for which catalog snapshot; gives out pins."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog

from animora_artifact import Artifact, ArtifactRejected
from animora_server.catalog import CatalogSnapshot
from animora_server.errors import ScoringFailed
from animora_server.scorer.binder import Binder
from animora_server.scorer.device import Device, LoadedModel
from animora_server.scorer.resident import ResidentModel

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pin:
    """One snapshot and the models encoded for it. See ranker.protocols."""

    snapshot: CatalogSnapshot
    active: ResidentModel | None = None
    resident: Mapping[str, ResidentModel] = field(default_factory=dict)


class Residency:
    """Binds catalog snapshots and models together, and swaps the pair that requests see.

    Publishing a snapshot encodes its new rows for every resident model before the snapshot is seen;
    activating a model encodes all rows and warms every batch size before the model is seen. Requests
    go on meanwhile with the pin they have.
    """

    def __init__(self, device: Device, binder: Binder, max_models: int) -> None:
        self._device = device
        self._binder = binder
        self._max_models = max_models
        self._changing = asyncio.Lock()
        self._loaded: dict[str, LoadedModel] = {}  # oldest use first, the active one last
        self._pin: Pin | None = None

    def current(self) -> Pin | None:
        """The pair that a new request sees; None until a catalog is published."""
        return self._pin

    @property
    def active_version(self) -> str | None:
        """The version that answers, or would if there were a catalog."""
        return next(reversed(self._loaded), None)

    async def publish(self, snapshot: CatalogSnapshot) -> None:
        """Makes a snapshot the one that new requests see."""
        async with self._changing:
            bound_before = self._pin.resident if self._pin else {}
            resident = {}
            for version, loaded in self._loaded.items():
                try:
                    resident[version] = await self._binder.bind(loaded, snapshot, bound_before.get(version))
                except (ScoringFailed, ArtifactRejected) as error:
                    log.error("a model cannot be bound to the catalog", version=version, error=str(error))
            self._swap(snapshot, resident)

    async def activate(self, artifact: Artifact) -> None:
        """Loads a version beside the others, checks, encodes and warms it, then lets it answer.

        Raises:
            ArtifactRejected: It must not serve; the version that answered still does.
            ScoringFailed: The device failed.
        """
        version = artifact.manifest.version
        loaded = self._loaded.get(version) or await self._device.load(artifact)
        bound = self._pin.resident.get(version) if self._pin else None
        if self._pin is not None:
            # The long part. Snapshots go on being published meanwhile, with the blocks that are in them.
            bound = await self._binder.bind(loaded, self._pin.snapshot, bound)
        async with self._changing:
            resident: dict[str, ResidentModel] = {}
            if self._pin is not None:
                bound = await self._binder.bind(loaded, self._pin.snapshot, bound)
                resident = {**self._pin.resident, version: bound}
            self._loaded.pop(version, None)
            self._loaded[version] = loaded
            while len(self._loaded) > self._max_models:
                evicted = next(iter(self._loaded))
                del self._loaded[evicted]
                resident.pop(evicted, None)
            if self._pin is not None:
                self._swap(self._pin.snapshot, resident)

    def _swap(self, snapshot: CatalogSnapshot, resident: dict[str, ResidentModel]) -> None:
        active = resident.get(self.active_version) if self.active_version else None
        self._pin = Pin(snapshot, active, resident)
