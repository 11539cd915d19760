"""One run from its beginning to its end: load, plan, rank, write, swap."""

import asyncio
import time
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol

import numpy as np
import structlog

from animora_artifact import VersionSource
from animora_server.catalog import CatalogSnapshot
from animora_server.errors import ConfigurationError, InvalidScores
from animora_server.models import open_models
from animora_server.precompute.load import (
    catalog_digest,
    load_catalog,
    load_scorer,
    width_preference,
    window_at,
)
from animora_server.precompute.plan import (
    RESTART,
    Plan,
    abandon_unfinished,
    begin_or_resume,
    new_generation_id,
)
from animora_server.precompute.protocols import GenerationStore
from animora_server.precompute.rank import ChunkRanker
from animora_server.precompute.rate_limiter import RateLimiter
from animora_server.precompute.scoring import WindowScorer
from animora_server.precompute.shard import Shard
from animora_server.precompute.summary import RunSummary, RunTotals
from animora_server.precompute.swap import SwapObserver, finish
from animora_server.precompute.write import TimelineWriter, WriteObserver
from animora_server.settings import Settings
from animora_server.store import PostgresStore
from animora_server.timeline.keys import settings_digest
from animora_server.types import Generation, IntArray

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run is asked for.

    Attributes:
        shard: Whose lists to make.
        active_days: Only users who liked or commented within this many days; None for all.
        rate: Pairs a second, 0 for as many as can be.
        restart: Whether to abandon what an earlier run left unfinished.
    """

    shard: Shard = field(default_factory=Shard)
    active_days: float | None = None
    rate: float = 0.0
    restart: bool = False


class RunObserver(WriteObserver, SwapObserver, Protocol):
    """Is told how far a run is, from its plan on."""

    def planned(self, plan: Plan, users: int) -> None:
        """So many users are to get lists."""
        ...


class NullObserver:
    """A run that nobody watches; see RunObserver."""

    def planned(self, plan: Plan, users: int) -> None:
        """See RunObserver."""

    def advanced(self, chunk: RunTotals) -> None:
        """See write.Watch."""

    def swapped(self) -> None:
        """See swap.SwapObserver."""


async def run(
    settings: Settings, options: RunOptions, store: GenerationStore, observer: RunObserver
) -> RunSummary:
    """Makes the lists of a shard; whatever ends it early, the same run again goes on where it was.

    Raises:
        ConfigurationError: What is asked for does not fit the generation being built, or cannot be had.
        StoreError: PostgreSQL or Redis did not answer.
        ArtifactError: The model store did not, or its version must not serve.
        DeviceFault: The device failed.
        OSError: The catalog's folder cannot be written.
        InvalidScores: The model gave no user scores that are numbers.
        GenerationGone: Another run has abandoned the generation.
    """
    began = time.perf_counter()
    if options.restart and options.shard.index:
        raise ConfigurationError("--restart: shard 0 may; the others join what it has begun")
    models = open_models(settings.models)
    with closing(PostgresStore(settings.database)) as database:
        async with database.reading() as reading:
            snapshot = await load_catalog(reading, settings.catalog, await width_preference(models))
            plan = await _plan(settings, options, snapshot, models, store)
            users = await reading.users(_active_since(plan.generation, options))
    generation = plan.generation
    window = window_at(snapshot, settings.timeline, generation.made_at)
    await store.intersect_posts(generation, window.post_ids)
    limiter = RateLimiter(options.rate)
    scorer = None
    if models is not None and generation.model_version:
        scorer = await load_scorer(models, generation.model_version, window, settings.scorer, limiter)
    mine = users[options.shard.holds(users)]  # int64 (u)
    observer.planned(plan, len(mine))
    loaded = time.perf_counter()
    ranker = ChunkRanker(generation, window, scorer, settings, limiter)
    writer = TimelineWriter(store, generation, ranker, limiter, observer)
    totals = await writer.write(mine, settings.precompute.workers, look_first=plan.resumed)
    written = time.perf_counter()
    if scorer is not None and totals.left_out:
        _require_finite_scores(scorer, mine, totals)
    swap = await finish(store, generation, options.shard.index, observer)
    return RunSummary(
        generation=generation,
        totals=totals,
        resumed=plan.resumed,
        catalog_changed=plan.catalog_changed,
        model_changed=plan.model_changed,
        current=swap.current,
        retired=swap.retired,
        loading=loaded - began,
        seconds=written - loaded,
    )


async def _plan(
    settings: Settings,
    options: RunOptions,
    snapshot: CatalogSnapshot,
    models: VersionSource | None,
    store: GenerationStore,
) -> Plan:
    """What to build, once nothing stands against it."""
    proposal = await _propose(settings, options, snapshot, models)
    if models is not None and not proposal.model_version:
        await _refuse_to_replace_model(store)
    if options.restart:  # now that a new one can be begun
        await abandon_unfinished(store)
    plan = await begin_or_resume(store, proposal)
    version = plan.generation.model_version
    if version and models is None:
        raise ConfigurationError(
            f"models.store: the generation being built is model {version}'s: name the store that has it, "
            f"or {RESTART}"
        )
    if plan.model_changed:
        log.warning(
            "another model is active than the generation was begun with: servers will pass over its lists; "
            "--restart begins anew with the active one",
            begun_with=version,
            active=proposal.model_version,
        )
    return plan


async def _propose(
    settings: Settings, options: RunOptions, snapshot: CatalogSnapshot, models: VersionSource | None
) -> Generation:
    """What a new generation would be, made now."""
    active = await asyncio.to_thread(models.active) if models else None
    return Generation(
        generation_id=new_generation_id(),
        made_at=snapshot.read_at,  # the database's clock, which all shards and servers share
        read_at=snapshot.read_at,
        model_version=active or "",
        catalog_digest=await asyncio.to_thread(catalog_digest, snapshot),
        settings_digest=settings_digest(settings.timeline, settings.ranking),
        shards=options.shard.count,
    )


async def _refuse_to_replace_model(store: GenerationStore) -> None:
    """Refuses to replace a model's lists for want of one: a store that is not there looks empty."""
    current = await store.current()
    if current is not None and current.model_version:
        raise ConfigurationError(
            f"models.store: no version is active there, and timelines are served from model "
            f"{current.model_version}'s lists: activate one, or leave models.store empty to rank everyone by "
            "the heuristic"
        )


def _require_finite_scores(scorer: WindowScorer, user_ids: IntArray, totals: RunTotals) -> None:
    """Refuses a model that gave none of the users int64 (u) whom it knows scores that are numbers."""
    trained = np.count_nonzero(scorer.user_rows(user_ids))
    if totals.left_out == trained:
        raise InvalidScores(
            f"the model {scorer.version} gave none of the {trained:,} users whom it knows scores that are "
            f"numbers, and what is served stays as it is: activate another version, and {RESTART}"
        )


def _active_since(generation: Generation, options: RunOptions) -> datetime | None:
    """From when on users must have liked or commented; counted from the generation, as all ages are."""
    if options.active_days is None:
        return None
    return datetime.fromtimestamp(generation.made_at, UTC) - timedelta(days=options.active_days)
