"""Loads, swaps and evicts models, encodes catalog snapshots for them, and publishes serving states."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace

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
from animora_server.inference.placeholder_models import NoModel, UnavailableModel
from animora_server.inference.protocols import InferenceDevice, Model
from animora_server.inference.resident_model import ResidentModel
from animora_server.scoring.serving_state import ServingState, ServingStateHolder

log = structlog.get_logger(__name__)

MAX_PENDING_EVENTS = 5_000  # blocks and deletions kept until a reading holds them


class ModelManager:
    """Holds the serving state: a catalog snapshot with the models that are encoded for it, swapped as one.

    Publishing a snapshot encodes its new rows for every resident model before requests see the snapshot.
    Activating a model encodes all rows and warms every batch size before requests see the model. Meanwhile
    requests use the current serving state, to which change events are applied at once. A new snapshot gets
    all change events that its reading may lack before it is published. Some versions may be kept beside the
    active one: they are not evicted.

    Args:
        states: Holds the serving state for new requests.
        device: Loads and holds the models.
        encoder: Encodes snapshots.
        max_models: How many versions stay on the device; the least recently activated is evicted first.
        placeholder: The active model while no version is loaded. With None there is no active model, so each
            answer of the heuristic counts as a fallback.
        reconcile: Requests a reconcile of the catalog when a version needs embeddings of other widths.
    """

    def __init__(
        self,
        states: ServingStateHolder,
        device: InferenceDevice,
        encoder: CatalogEncoder,
        max_models: int,
        placeholder: NoModel | None = None,
        reconcile: Callable[[], None] = lambda: None,
    ) -> None:
        self.states = states
        self._reconcile = reconcile
        self._wanted_widths = NO_WIDTHS
        self._width_problem: str | None = None  # why embeddings count as absent for the active version
        self._device = device
        self._encoder = encoder
        self._max_models = max_models
        self._kept: set[str] = set()  # never evicted
        self._placeholder = placeholder
        self._swap_lock = asyncio.Lock()
        self._active: str | None = None  # the version that was activated last
        self._loaded: dict[str, Model] = {}  # in order of activation
        self._encoded: dict[str, ResidentModel] = {}
        self._unavailable: dict[str, Model] = {}  # lost with the device
        self._device_losses = 0
        self._published = asyncio.Event()
        self._event_log = EventLog()
        self._blocks = Relations.empty(), float("-inf")  # as of publish_blocks, and the time of their reading

    @property
    def active_version(self) -> str | None:
        """The active version; None while no version is loaded."""
        return self._active if self._active in self._loaded else None

    @property
    def loaded_versions(self) -> tuple[str, ...]:
        """The versions on the device."""
        return tuple(self._loaded)

    @property
    def versions(self) -> int:
        """How many versions are on the device."""
        return len(self._loaded)

    def is_kept(self, version: str) -> bool:
        """Whether a version is on the device and stays there."""
        return version in self._kept and version in self._loaded

    @property
    def compiled(self) -> bool:
        """Whether native code scores for the active version."""
        version = self.active_version
        return version is not None and self._loaded[version].compiled

    async def publish(self, snapshot: CatalogSnapshot) -> None:
        """Encodes a snapshot for every resident model, then swaps it in for new requests.

        A model for which encoding fails is not in the new serving state; the failure is logged. A version is
        no longer kept beside the active one if the snapshot's embeddings do not fit it.
        """
        async with self._swap_lock:
            device_losses = self._device_losses
            resident = {}
            self._unload_misfits(snapshot)
            for version, loaded in list(self._loaded.items()):
                try:
                    resident[version] = await self._encoder.encode_snapshot(
                        loaded, snapshot, self._encoded.get(version)
                    )
                except ScoringFailed as error:
                    log.error("catalog not encoded for model", version=version, error=str(error))
            resident = resident if device_losses == self._device_losses else {}
            self._swap(self._with_latest_events(snapshot), resident)
            self._report_widths(snapshot)
            self._event_log.forget(min(snapshot.posts_read_at, snapshot.blocks_read_at))
            self._published.set()

    def publish_blocks(self, relations: Relations, read_at: float) -> None:
        """Replaces the blocks that new requests see, without waiting for a publish or an activation.

        Args:
            relations: All blocks, from one reading.
            read_at: `time.monotonic()` when the reading began.
        """
        self._blocks = relations, read_at
        self._change_snapshot(self._with_latest_events)

    @property
    def accepts_events(self) -> bool:
        """Whether fewer than MAX_PENDING_EVENTS blocks and deletions wait for a reading that holds them."""
        return len(self._event_log) < MAX_PENDING_EVENTS

    @property
    def block_age(self) -> float:
        """Seconds since the newest blocks were read; infinite before the first reading."""
        state = self.states.latest
        return time.monotonic() - (self._blocks[1] if state is None else state.snapshot.blocks_read_at)

    def apply(self, events: ChangeEvents) -> None:
        """Applies events for new requests at once, without waiting for a publish or an activation."""
        self._event_log.add(events, time.monotonic())
        self._change_snapshot(lambda snapshot: apply_events(snapshot, events))

    async def activate(self, artifact: Artifact) -> None:
        """Loads, checks, encodes and warms a version, then makes it the active version.

        Waits until a catalog snapshot is published.

        Raises:
            ArtifactRejected: The version must not serve. The active version stays.
            ScoringFailed: The device failed. The active version stays.
        """
        await self._load(artifact, self._check_widths, self._make_active)

    async def keep(self, artifact: Artifact) -> None:
        """Loads, checks, encodes and warms a version, which then stays beside the active version.

        Waits until a catalog snapshot is published. There must be fewer kept versions than `max_models`.

        Raises:
            ArtifactRejected: The version must not serve.
            ScoringFailed: The device failed.
        """

        def check(manifest: Manifest) -> None:
            check_widths(manifest, self._published_state().snapshot)

        await self._load(artifact, check, self._add)

    async def _load(
        self,
        artifact: Artifact,
        check: Callable[[Manifest], None],
        install: Callable[[str, Model], None],
    ) -> None:
        """Loads and encodes a version, and publishes a serving state that has it.

        Args:
            artifact: The version.
            check: Raises ArtifactRejected if the embeddings of the catalog do not fit the version.
            install: Adds the version to those that are loaded.
        """
        version, device_losses = artifact.manifest.version, self._device_losses
        if self.states.latest is not None:
            check(artifact.manifest)
        loaded = self._loaded.get(version) or await self._device.load(artifact)
        await self._published.wait()
        check(artifact.manifest)
        # This takes long, so it does not hold the lock: new snapshots are published meanwhile.
        snapshot = self._published_state().snapshot
        encoded = await self._encoder.encode_snapshot(loaded, snapshot, self._encoded.get(version))
        async with self._swap_lock:
            check(artifact.manifest)
            encoded = await self._encoder.encode_snapshot(loaded, self._published_state().snapshot, encoded)
            if device_losses != self._device_losses:
                raise DeviceFault("the device was lost while the version was loaded")
            install(version, loaded)
            resident = {**self._encoded, version: encoded}
            self._evict()
            # The current snapshot again: events may have changed it during the encoding.
            self._swap(self._published_state().snapshot, resident)

    def roll_back(self, version: str, previous: str) -> Manifest | None:
        """Makes a version that is still resident the active one at once; evicts the other, unless it is kept.

        Requests that use the evicted version finish with it.

        Args:
            version: The active version.
            previous: The version to go back to.

        Returns:
            The manifest of the previous version; None if it is no longer resident: then nothing has changed.
        """
        if version != self.active_version or previous not in self._encoded:
            return None
        if version not in self._kept:
            del self._loaded[version]
        self._active = previous
        self._loaded[previous] = self._loaded.pop(previous)
        self.watch_again()
        return self._loaded[previous].manifest

    def watch_again(self) -> None:
        """Publishes the serving state again, with the models watched that are to be now."""
        self._swap(self._published_state().snapshot, self._encoded)

    def _make_active(self, version: str, loaded: Model) -> None:
        self._unavailable.clear()
        self._loaded.pop(version, None)
        self._loaded[version] = loaded
        self._active = version

    def _add(self, version: str, loaded: Model) -> None:
        self._unavailable.pop(version, None)
        self._kept.add(version)
        self._loaded[version] = loaded  # in its place, if it was activated meanwhile

    def _evict(self) -> None:
        """Unloads the least recently activated versions above the limit."""
        evictable = [version for version in self._loaded if version not in {*self._kept, self._active}]
        for version in evictable[: max(len(self._loaded) - self._max_models, 0)]:
            del self._loaded[version]

    def _unload_misfits(self, snapshot: CatalogSnapshot) -> None:
        """Unloads kept versions that the embeddings of a snapshot do not fit."""
        for version in self._kept - {self._active}:
            if version in self._loaded:
                try:
                    check_widths(self._loaded[version].manifest, snapshot)
                except ArtifactRejected as error:
                    log.warning("model version unloaded", version=version, error=str(error))
                    del self._loaded[version]

    def _report_widths(self, snapshot: CatalogSnapshot) -> None:
        """Logs when the catalog's embeddings stop fitting the active version."""
        version, problem = self.active_version, None
        if version is not None:
            try:
                check_widths(self._loaded[version].manifest, snapshot)
            except ArtifactRejected as error:
                problem = str(error)
        if problem != self._width_problem and problem is not None:
            log.warning("embeddings count as absent for the active model", version=version, error=problem)
        self._width_problem = problem

    @property
    def width_preference(self) -> WidthPreference:
        """Which embedding widths the catalog should keep."""
        active = self._loaded.get(self._active or "") or self._unavailable.get(self._active or "")
        return WidthPreference(_widths(active.manifest) if active else NO_WIDTHS, self._wanted_widths)

    def _check_widths(self, manifest: Manifest) -> None:
        """Raises ArtifactRejected if a version needs other widths than the catalog keeps.

        It then requests a reconcile once, after which the catalog may keep them.
        """
        wanted_before, self._wanted_widths = self._wanted_widths, NO_WIDTHS
        try:
            check_widths(manifest, self._published_state().snapshot)
        except ArtifactRejected:
            self._wanted_widths = _widths(manifest)
            if self._wanted_widths != wanted_before:
                self._reconcile()
            raise

    def check_widths(self, manifest: Manifest) -> None:
        """Checks that the catalog, once it is loaded, has embeddings of the widths that a version needs.

        Raises:
            ArtifactRejected: It has others. It may have them after a reconcile, which this requests.
        """
        if self.states.latest is not None:
            self._check_widths(manifest)

    def on_device_lost(self) -> None:
        """Replaces all models by placeholders that raise DeviceFault, until a version is activated again."""
        self._device_losses += 1
        self._unavailable |= self._loaded
        self._loaded.clear()
        self._encoded.clear()
        if self.states.latest is not None:
            self._swap(self.states.latest.snapshot, {})

    def _change_snapshot(self, change: Callable[[CatalogSnapshot], CatalogSnapshot]) -> None:
        """Changes the catalog snapshot that new requests see."""
        state = self.states.latest
        if state is not None:
            self.states.latest = replace(state, snapshot=change(state.snapshot))

    def _with_latest_events(self, snapshot: CatalogSnapshot) -> CatalogSnapshot:
        """The snapshot with the newest blocks and all change events that its readings may lack."""
        snapshot = snapshot.with_relations(*self._blocks)
        missed = ChangeEvents(
            blocks=self._event_log.since(snapshot.blocks_read_at).blocks,
            deleted=self._event_log.since(snapshot.posts_read_at).deleted,
        )
        return apply_events(snapshot, missed) if missed else snapshot

    def _published_state(self) -> ServingState:
        if self.states.latest is None:
            raise ModelUnavailable
        return self.states.latest

    def _swap(self, snapshot: CatalogSnapshot, resident: dict[str, ResidentModel]) -> None:
        """Publishes a serving state; models that were evicted meanwhile are left out."""
        self._encoded = {version: model for version, model in resident.items() if version in self._loaded}
        models = {
            version: UnavailableModel(model, snapshot) for version, model in self._unavailable.items()
        } | self._encoded
        active = models.get(self._active or "", self._placeholder)
        self.states.publish(ServingState(snapshot, active, models))


def _widths(manifest: Manifest) -> Widths:
    return Widths(manifest.dimensions.image, manifest.dimensions.caption)
