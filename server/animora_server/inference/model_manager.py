"""Residency: which models are on the device, encoded for which catalog snapshot; gives out pins."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from animora_artifact import Artifact, ArtifactRejected, Manifest
from animora_server.catalog import (
    NO_WIDTHS,
    CatalogSnapshot,
    ChangeEvents,
    EventLog,
    Relations,
    WidthPreference,
    Widths,
    apply_events,
)
from animora_server.errors import DeviceFault, ModelUnavailable, ScoringFailed
from animora_server.inference.catalog_encoder import CatalogEncoder, check_widths
from animora_server.inference.no_model import NoModel
from animora_server.inference.protocols import InferenceDevice, Model
from animora_server.inference.resident_model import ResidentModel
from animora_server.inference.unavailable_model import UnavailableModel

log = structlog.get_logger(__name__)

MAX_PENDING_EVENTS = 5_000  # that may wait for a reading; more are left to it


@dataclass(frozen=True, slots=True)
class ResidentState:
    """One snapshot and the models encoded for it. See ranker.protocols."""

    snapshot: CatalogSnapshot
    active: ResidentModel | UnavailableModel | NoModel | None = None
    resident: Mapping[str, ResidentModel | UnavailableModel] = field(default_factory=dict)


class ModelManager:
    """Binds catalog snapshots and models together, and swaps the pair that requests see.

    Publishing a snapshot encodes its new rows for every resident model before the snapshot is seen;
    activating a model encodes all rows and warms every batch size before the model is seen. Requests
    go on meanwhile with the pin they have, which facts correct at once, and the snapshot that takes its
    place is corrected by all facts that it may lack.

    Args:
        device: Where models are loaded to.
        encoder: Encodes snapshots.
        max_models: How many versions stay on the device.
        without: What answers while no version does; None where the heuristic stands in for one then.
        reconcile: Asks for a reconcile of the catalog, since a version takes other embeddings than it has.
    """

    def __init__(
        self,
        device: InferenceDevice,
        encoder: CatalogEncoder,
        max_models: int,
        without: NoModel | None = None,
        reconcile: Callable[[], None] = lambda: None,
    ) -> None:
        self._reconcile = reconcile
        self._wanted_widths = NO_WIDTHS
        self._lacking: str | None = None  # why embeddings count as absent for the version that answers
        self._device = device
        self._encoder = encoder
        self._max_models = max_models
        self._without = without
        self._changing = asyncio.Lock()
        self._loaded: dict[str, Model] = {}  # oldest use first, the active one last
        self._bound: dict[str, ResidentModel] = {}
        self._lost: dict[str, Model] = {}  # with the device, the one that answered last
        self._losses = 0
        self._pin: ResidentState | None = None
        self._published = asyncio.Event()
        self._event_log = EventLog()
        self._blocks = (
            Relations.empty(),
            float("-inf"),
        )  # those published by themselves, and when they were read

    def current(self) -> ResidentState | None:
        """The pair that a new request sees; None until a catalog is published."""
        return self._pin

    @property
    def active_version(self) -> str | None:
        """The version that answers."""
        return next(reversed(self._loaded), None)

    @property
    def versions(self) -> int:
        """How many versions are on the device."""
        return len(self._loaded)

    @property
    def compiled(self) -> bool:
        """Whether the version that answers is scored by compiled code."""
        version = self.active_version
        return version is not None and self._loaded[version].compiled

    async def publish(self, snapshot: CatalogSnapshot) -> None:
        """Makes a snapshot the one that new requests see."""
        async with self._changing:
            losses = self._losses
            resident = {}
            for version, loaded in list(self._loaded.items()):
                try:
                    resident[version] = await self._encoder.bind(loaded, snapshot, self._bound.get(version))
                except ScoringFailed as error:
                    log.error("a model cannot be bound to the catalog", version=version, error=str(error))
            resident = resident if losses == self._losses else {}
            self._swap(self._up_to_date(snapshot), resident)
            self._report_widths(snapshot)
            self._event_log.forget(min(snapshot.posts_read_at, snapshot.blocks_read_at))
            self._published.set()

    def publish_blocks(self, relations: Relations, read_at: float) -> None:
        """Makes blocks seen by new requests at once, whatever is being encoded or loaded.

        Args:
            relations: Those of a reading of all blocks.
            read_at: `time.monotonic()` when it began.
        """
        self._blocks = relations, read_at
        if self._pin is not None:
            self._pin = replace(self._pin, snapshot=self._up_to_date(self._pin.snapshot))

    @property
    def accepts_events(self) -> bool:
        """Whether few facts wait for a reading that holds them."""
        return len(self._event_log) < MAX_PENDING_EVENTS

    @property
    def block_age(self) -> float:
        """Seconds since the newest blocks were read, infinite before the first time."""
        read_at = self._blocks[1] if self._pin is None else self._pin.snapshot.blocks_read_at
        return time.monotonic() - read_at

    def correct(self, events: ChangeEvents) -> None:
        """Makes facts seen by new requests at once, whatever is being encoded or loaded."""
        self._event_log.add(events, time.monotonic())
        if self._pin is not None:
            self._pin = replace(self._pin, snapshot=apply_events(self._pin.snapshot, events))

    async def activate(self, artifact: Artifact) -> None:
        """Loads a version beside the others, checks, encodes and warms it, then lets it answer.

        Waits for the catalog, if that is not there yet.

        Raises:
            ArtifactRejected: It must not serve; the version that answered still does.
            ScoringFailed: The device failed.
        """
        version, losses = artifact.manifest.version, self._losses
        if self._pin is not None:
            self._check_widths(artifact.manifest)
        loaded = self._loaded.get(version) or await self._device.load(artifact)
        await self._published.wait()
        self._check_widths(artifact.manifest)
        # The long part. Snapshots go on being published meanwhile, with the blocks that are in them.
        pin = self._published_pin()
        bound = await self._encoder.bind(loaded, pin.snapshot, self._bound.get(version))
        async with self._changing:
            self._check_widths(artifact.manifest)
            pin = self._published_pin()
            bound = await self._encoder.bind(loaded, pin.snapshot, bound)
            if losses != self._losses:
                raise DeviceFault("what was loaded has gone with the device")
            resident = {**self._bound, version: bound}
            self._lost.clear()
            self._loaded.pop(version, None)
            self._loaded[version] = loaded
            while len(self._loaded) > self._max_models:
                evicted = next(iter(self._loaded))
                del self._loaded[evicted]
                resident.pop(evicted, None)
            # Facts may have come while it was bound; no snapshot has.
            self._swap(self._published_pin().snapshot, resident)

    def _report_widths(self, snapshot: CatalogSnapshot) -> None:
        """Logs when the version that answers begins to lack its embeddings, and when that ends."""
        version, lacking = self.active_version, None
        if version is not None:
            try:
                check_widths(self._loaded[version].manifest, snapshot)
            except ArtifactRejected as error:
                lacking = str(error)
        if lacking != self._lacking and lacking is not None:
            log.warning(
                "embeddings count as absent for the model that answers", version=version, error=lacking
            )
        self._lacking = lacking

    @property
    def width_preference(self) -> WidthPreference:
        """Which embeddings the catalog should keep."""
        models = list((self._loaded or self._lost).values())
        return WidthPreference(_widths(models[-1].manifest) if models else NO_WIDTHS, self._wanted_widths)

    def _check_widths(self, manifest: Manifest) -> None:
        """Raises ArtifactRejected for a version that takes other embeddings than the catalog has.

        The catalog may have them after a reconcile.
        """
        wanted_before, self._wanted_widths = self._wanted_widths, NO_WIDTHS
        try:
            check_widths(manifest, self._published_pin().snapshot)
        except ArtifactRejected:
            self._wanted_widths = _widths(manifest)
            if self._wanted_widths != wanted_before:
                self._reconcile()
            raise

    def lose(self) -> None:
        """All that was on the device has gone with it: asking any version fails until one is activated."""
        self._losses += 1
        self._lost |= self._loaded
        self._loaded.clear()
        self._bound.clear()
        if self._pin is not None:
            self._swap(self._pin.snapshot, {})

    def _up_to_date(self, snapshot: CatalogSnapshot) -> CatalogSnapshot:
        """The snapshot with the newest blocks, and with all facts that its readings may lack."""
        snapshot = snapshot.with_relations(*self._blocks)
        missed = ChangeEvents(
            blocks=self._event_log.since(snapshot.blocks_read_at).blocks,
            deleted=self._event_log.since(snapshot.posts_read_at).deleted,
        )
        return apply_events(snapshot, missed) if missed else snapshot

    def _published_pin(self) -> ResidentState:
        if self._pin is None:
            raise ModelUnavailable
        return self._pin

    def _swap(self, snapshot: CatalogSnapshot, resident: dict[str, ResidentModel]) -> None:
        self._bound = resident
        models = {
            version: UnavailableModel(model, snapshot) for version, model in self._lost.items()
        } | resident
        active = models.get(self.active_version or next(reversed(self._lost), ""), self._without)
        self._pin = ResidentState(snapshot, active, models)


def _widths(manifest: Manifest) -> Widths:
    return Widths(manifest.dimensions.image, manifest.dimensions.caption)
