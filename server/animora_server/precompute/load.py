"""Loads the catalog, the window of posts, and the model, which is verified as a server does it."""

import asyncio
import hashlib
import time
from dataclasses import replace

import numpy as np

from animora_artifact import ArtifactError, VersionNotFound, VersionSource
from animora_server.catalog import (
    NO_PREFERENCE,
    Catalog,
    CatalogSnapshot,
    FeedIndex,
    WidthPreference,
    Widths,
)
from animora_server.errors import ConfigurationError
from animora_server.inference.catalog_encoder import check_widths
from animora_server.inference.device import Device
from animora_server.precompute.plan import RESTART
from animora_server.precompute.rate_limiter import RateLimiter
from animora_server.precompute.scoring import Window, WindowScorer
from animora_server.settings import CatalogSettings, ScorerSettings, TimelineSettings
from animora_server.store.protocols import CatalogReading
from animora_server.store.refresh import Refresh
from animora_server.timeline.eligibility import window_start


async def width_preference(store: VersionSource | None) -> WidthPreference:
    """The embedding widths of the active version; no preference if it cannot be read."""
    try:
        version = None if store is None else await asyncio.to_thread(store.active)
        if store is None or version is None:
            return NO_PREFERENCE
        dimensions = (await asyncio.to_thread(store.read, version)).manifest.dimensions
    except ArtifactError:  # the plan, or loading the version, will raise it
        return NO_PREFERENCE
    return WidthPreference(serving=Widths(dimensions.image, dimensions.caption))


async def load_catalog(
    reading: CatalogReading, settings: CatalogSettings, preference: WidthPreference = NO_PREFERENCE
) -> CatalogSnapshot:
    """Loads the whole catalog. The order of its feed index depends on the posts alone.

    Raises:
        StoreError: PostgreSQL did not answer.
        OSError: The embeddings cannot be written.
    """
    if settings.directory is not None:
        settings.directory.mkdir(parents=True, exist_ok=True)
    refresh = Refresh(reading, Catalog.empty(settings.directory), settings, time.monotonic(), preference)
    snapshot = (await refresh.reconcile()).snapshot
    # PostgreSQL returns rows in any order, which would decide between posts of the same time.
    rows = snapshot.feed.rows
    order = np.lexsort((snapshot.post_ids[rows], snapshot.created_at[rows]))
    return replace(snapshot, feed=FeedIndex(rows[order], snapshot.feed.created_at))


def catalog_digest(snapshot: CatalogSnapshot) -> str:
    """16 hexadecimal digits; catalogs with different posts, counts or blocks have different digests."""
    digest = hashlib.blake2b(digest_size=8)
    rows = np.argsort(snapshot.post_ids, kind="stable")
    for column in (
        snapshot.post_ids, snapshot.author_ids, snapshot.created_at, snapshot.deleted,
        snapshot.interactions, snapshot.fingerprints,
    ):  # fmt: skip
        digest.update(column[rows].tobytes())
    blocked = snapshot.relations.blocked
    for part in (blocked.keys, blocked.offsets, blocked.members):
        digest.update(part.tobytes())
    return digest.hexdigest()


def window_at(snapshot: CatalogSnapshot, settings: TimelineSettings, now: float) -> Window:
    """The posts that are candidates at a time (Unix seconds)."""
    return Window.of(snapshot, snapshot.feed.newest(window_start(settings, now), settings.max_candidates))


async def load_scorer(
    store: VersionSource, version: str, window: Window, settings: ScorerSettings, limiter: RateLimiter
) -> WindowScorer:
    """Loads and verifies a version, and encodes the window's posts on the device.

    Raises:
        ConfigurationError: The store does not have the version.
        ArtifactRejected: The version must not serve.
        StoreUnavailable: The store cannot be read.
        ScoringFailed: The device failed.
    """
    try:
        artifact = await asyncio.to_thread(store.read, version)
    except VersionNotFound as error:
        raise ConfigurationError(
            f"the model {version} of the generation being built is not in the store any more: {RESTART}"
        ) from error
    async with Device(settings, on_fault=lambda: None) as device:  # a fault raises, which ends the run
        model = await device.load(artifact)
        check_widths(model.manifest, window.snapshot)
        scorer = WindowScorer(model, str(device), window, settings.max_batch_rows, limiter)
        await asyncio.to_thread(scorer.encode)
    return scorer
