"""One precompute run: load, plan, rank, write, swap."""

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
from animora_server.timeline.store import settings_digest
from animora_server.types import Generation, IntArray

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of a run.

    Attributes:
        shard: The users to rank.
        active_days: Rank only users who liked or commented within this many days; None for all users.
        rate: Maximum user-post pairs a second; 0 for no limit.
        restart: Whether to abandon an unfinished generation first.
    """

    shard: Shard = field(default_factory=Shard)
    active_days: float | None = None
    rate: float = 0.0
    restart: bool = False


class RunObserver(WriteObserver, SwapObserver, Protocol):
    """Receives the progress of a run."""

    def planned(self, plan: Plan, users: int) -> None:
        """The plan is made; the number of users to rank is known."""
        ...


class NullObserver:
    """A RunObserver that does nothing."""

    def planned(self, plan: Plan, users: int) -> None:
        """See RunObserver."""

    def advanced(self, chunk: RunTotals) -> None:
        """See write.WriteObserver."""

    def swapped(self) -> None:
        """See swap.SwapObserver."""


async def run(
    settings: Settings, options: RunOptions, store: GenerationStore, observer: RunObserver
) -> RunSummary:
    """Precomputes the timelines of a shard. A run with the same options resumes one that ended early.

    Args:
        settings: The settings.
        options: The options of the run.
        store: The generations.
        observer: Receives the progress.

    Raises:
        ConfigurationError: The options do not fit the generation being built, or cannot be met.
        StoreError: PostgreSQL or Redis did not answer.
        ArtifactError: The model store did not answer, or the version must not serve.
        DeviceFault: The device failed.
        OSError: The catalog's folder cannot be written.
        InvalidScores: The model gave finite scores to no user.
        GenerationGone: Another run has abandoned the generation.
    """
    began = time.perf_counter()
    if options.restart and options.shard.index:
        raise ConfigurationError("--restart: only shard 0 may restart; the other shards join its generation")
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
    """Decides which generation to build. Raises ConfigurationError if the options do not allow it."""
    proposal = await _propose(settings, options, snapshot, models)
    if models is not None and not proposal.model_version:
        await _refuse_to_replace_model(store)
    if options.restart:  # only after the checks above: a failed restart must abandon nothing
        await abandon_unfinished(store)
    plan = await begin_or_resume(store, proposal)
    version = plan.generation.model_version
    if version and models is None:
        raise ConfigurationError(
            f"models.store: the generation being built is by model {version}: set the store that has it, "
            f"or {RESTART}"
        )
    if plan.model_changed:
        log.warning(
            "generation was begun with another model than the active one; servers will not use its timelines "
            "(--restart begins a new generation with the active model)",
            begun_with=version,
            active=proposal.model_version,
        )
    return plan


async def _propose(
    settings: Settings, options: RunOptions, snapshot: CatalogSnapshot, models: VersionSource | None
) -> Generation:
    """The record of a new generation."""
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
    """Refuses to replace a model's timelines by the heuristic's: a store that is away looks empty.

    Raises:
        ConfigurationError: The current generation is by a model.
    """
    current = await store.current()
    if current is not None and current.model_version:
        raise ConfigurationError(
            f"models.store: the store has no active version, but the current generation is by model "
            f"{current.model_version}: activate a version, or leave models.store empty to rank all users by "
            "the heuristic"
        )


def _require_finite_scores(scorer: WindowScorer, user_ids: IntArray, totals: RunTotals) -> None:
    """Raises InvalidScores if none of the users int64 (u) that the model knows got finite scores."""
    trained = np.count_nonzero(scorer.user_rows(user_ids))
    if totals.left_out == trained:
        raise InvalidScores(
            f"the model {scorer.version} gave finite scores to none of the {trained:,} users that it knows; "
            f"the current generation stays: activate another version, and {RESTART}"
        )


def _active_since(generation: Generation, options: RunOptions) -> datetime | None:
    """The time since which a user must have been active, counted back from the generation's time."""
    if options.active_days is None:
        return None
    return datetime.fromtimestamp(generation.made_at, UTC) - timedelta(days=options.active_days)
