"""Polls the model store's `ACTIVE` pointer and activates the version that it names."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from animora_artifact import (
    Artifact,
    ArtifactError,
    ArtifactRejected,
    Manifest,
    Pointer,
    StoreUnavailable,
    VersionSource,
)
from animora_artifact.errors import RejectionReason
from animora_server.background import EXPECTED, BackgroundLoop, Backoff, LoopOwner
from animora_server.errors import ActiveChanged, ModelRefused
from animora_server.models.version_loader import RefusedVersion, VersionLoader
from animora_server.observability.metrics import ModelMetrics
from animora_server.rollout.trial import Breach

log = structlog.get_logger(__name__)


class Models(Protocol):
    """Activates versions. See inference.ModelManager."""

    @property
    def active_version(self) -> str | None:
        """The active version; None while no version is loaded."""
        ...

    async def activate(self, artifact: Artifact) -> None:
        """Loads a version and makes it the active one. Raises ArtifactRejected or ScoringFailed."""
        ...

    def roll_back(self, version: str, previous: str) -> Manifest | None:
        """Makes the previous version the active one at once; None if it is not resident any more."""
        ...


class _Replayed(ArtifactRejected):
    """An `ACTIVE` that is older than one that was followed."""


class ModelWatcher(LoopOwner):
    """Polls a model store, an async context manager. A failure leaves the active version as it is.

    `ACTIVE` names the active version and the one before it. While no version is active, both are tried in
    this order, so a server that starts with a broken version falls back to the previous one.

    Args:
        store: The model store.
        models: Activates versions.
        poll_interval: Seconds between reads of `ACTIVE`.
        metrics: Counts activations, rejections and store errors.
        clock: Returns seconds; never steps back.

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
        self._pointer = Pointer()
        self._loader = VersionLoader(store, poll_interval, metrics, clock)
        self._wake = asyncio.Event()
        self._polls = 0  # begun so far
        self._pointer_poll = 0  # the poll that read the pointer
        self._poll_ended = asyncio.Event()  # replaced at each end
        self._read_at = -math.inf
        self.loop = BackgroundLoop(
            "model-watcher",
            self._check,
            expected=(*EXPECTED, ArtifactError),
            backoff=Backoff(first=poll_interval, longest=4 * poll_interval),
            wake=self._wake,
        )
        metrics.store_age_from(lambda: self._clock() - self._read_at)

    @property
    def refusals(self) -> Mapping[str, RefusedVersion]:
        """The refusals of versions that `ACTIVE` names, by version."""
        return self._loader.refusals

    async def follow(self, version: str) -> None:
        """Polls at once, and returns when a version that `ACTIVE` names by now is active here.

        Raises:
            ActiveChanged: `ACTIVE` names another version.
            ModelRefused: The version cannot be activated.
        """
        earlier_polls = self._polls
        self._loader.retry(version)
        self._wake.set()
        while True:
            poll_ended = self._poll_ended
            if self._pointer_poll > earlier_polls:
                if self._pointer.active != version:
                    raise ActiveChanged(self._pointer.active)
                if self._models.active_version == version:
                    return
                refusal = self.refusals.get(version)
                if refusal is not None and refusal.reason is not None:
                    raise ModelRefused(version, refusal.reason, refusal.detail, is_active=True)
            await poll_ended.wait()

    async def _check(self) -> float:
        """One poll; wakes those who wait for its end."""
        self._wake.clear()
        self._polls += 1
        try:
            await self._poll()
        finally:
            poll_ended, self._poll_ended = self._poll_ended, asyncio.Event()
            poll_ended.set()
        return self._poll_interval

    async def _poll(self) -> None:
        """Activates the first version that `ACTIVE` names and that can be activated."""
        for version in await self._named_versions():
            serving = self._models.active_version
            if version == serving and self._loader.is_due(version):
                break
            if self._loader.is_due(version) and await self._activate(version):
                break
            # A version that was rolled back may have to serve until the one before it is loaded again.
            if serving is not None and self._loader.is_due(serving):
                break

    def roll_back(self, version: str, previous: str | None, breach: Breach) -> None:
        """Goes back from a version that has left a band; refuses that version until `ACTIVE` changes.

        If the version before is not resident any more, those that `ACTIVE` names after this one are tried.

        Args:
            version: The active version.
            previous: The version that was active before in this process; None if there was none.
            breach: The band.
        """
        self._loader.refuse(version, breach.band.value, breach.detail)
        self._metrics.rolled_back(version, breach.band)
        manifest = None if previous is None else self._models.roll_back(version, previous)
        log.error(
            "model version rolled back",
            version=version,
            reason=breach.band.value,
            detail=breach.detail,
            active=version if manifest is None else previous,
        )
        if manifest is None:
            self._wake.set()
        else:
            self._metrics.active(manifest.version, manifest.created_at.timestamp())

    async def _named_versions(self) -> tuple[str, ...]:
        """The versions that `ACTIVE` names, the active one first; none before the first activation.

        Raises:
            StoreUnavailable: The store cannot be read, or `ACTIVE` vanished.
            ArtifactRejected: `ACTIVE` is not signed by the key, replayed, or does not hold versions' names.
        """
        try:
            pointer = await asyncio.to_thread(self._store.pointer)
            if pointer.active is None and self._pointer.active is not None:
                raise StoreUnavailable(f"ACTIVE, which named {self._pointer.active}, is missing")
            self._refuse_replayed(pointer)
        except (ArtifactError, OSError) as error:
            self._metrics.store_errors.inc()
            if isinstance(error, ArtifactRejected):
                self._metrics.active_refusals[_reason(error)].inc()
            raise
        if pointer.active is not None:
            self._read_at = self._clock()
        self._pointer_poll = self._polls
        if pointer != self._pointer:
            self._pointer = pointer
            self._loader.forget()
            self._metrics.nothing_rolled_back()
        return pointer.names

    def _refuse_replayed(self, pointer: Pointer) -> None:
        """Raises ArtifactRejected for a signed ACTIVE that is older than the last one that was followed.

        Someone who can write to the store may have put an earlier one back.
        """
        followed = self._pointer.signed_at
        if followed is not None and pointer.signed_at is not None and pointer.signed_at < followed:
            raise _Replayed(
                RejectionReason.SIGNATURE,
                f"ACTIVE was signed at {pointer.signed_at.isoformat()}, before the one that is followed",
            )

    async def _activate(self, version: str) -> bool:
        """Reads and activates a version. Returns whether it is active now; logs and counts a failure."""
        manifest = await self._loader.load(version, self._models.activate)
        if manifest is None:
            return False
        self._metrics.activations.inc()
        self._metrics.active(version, manifest.created_at.timestamp())
        log.info("model activated", version=version)
        return True


def _reason(error: ArtifactRejected) -> str:
    """Why `ACTIVE` is refused, as one of ModelMetrics.ACTIVE_REASONS."""
    if isinstance(error, _Replayed):
        return "replayed"
    return "signature" if error.reason is RejectionReason.SIGNATURE else "content"
