"""Timelines: a query in, a page out."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import ScoringFailed
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.protocols import ServingState, ServingStateSource
from animora_server.scoring.serving_state import current_state
from animora_server.settings import TimelineSettings
from animora_server.timeline.builder import BuildRequest
from animora_server.timeline.eligibility import (
    VisibilityFilter,
    exclusion_reasons,
    newer_posts,
    visible,
    window_start,
)
from animora_server.timeline.explainer import PagePosts, TimelineExplainer
from animora_server.timeline.feed_orderer import RankedPosts
from animora_server.timeline.feed_ranker import FeedKey, FeedRanker
from animora_server.timeline.keys import timeline_key
from animora_server.timeline.pages import paginate, paginate_merged
from animora_server.timeline.resolver import TimelineResolver
from animora_server.timeline.tokens import PageToken, TokenSigner
from animora_server.types import (
    CacheStatus,
    DropReason,
    IntArray,
    PageResult,
    RankedTimeline,
    TimelineQuery,
)


@dataclass(frozen=True, slots=True)
class PagePolicy:
    """What pages are cut by.

    Attributes:
        settings: Sizes, windows, times to live.
        settings_digest: Of the settings that shape lists.
        signer: Signs page tokens.
        max_block_age: Seconds after which blocks that could not be refreshed are too old.
    """

    settings: TimelineSettings
    settings_digest: str
    signer: TokenSigner
    max_block_age: float


@fast_dataclass
class _Reading:
    """Where a page is read from: a list, where in it, and how long the scroll through it may last."""

    snapshot: RankedTimeline
    status: CacheStatus
    offset: int
    expires_at: int


@fast_dataclass
class _View:
    """What a page is seen through: a catalog and whoever looks, at a time.

    Attributes:
        state: The models.
        catalog: The pin's.
        visibility: Who looks.
        now: Unix seconds.
        since: Unix time from which on posts are in timelines.
    """

    state: ServingState
    catalog: CatalogSnapshot
    visibility: VisibilityFilter
    now: float
    since: float


class Timelines:
    """Cuts pages of users' feeds.

    Args:
        states: Gives out the catalog and the models.
        lists: Where lists come from.
        ranker: Scores what is newer than a list.
        explainer: Says what scores are made of.
        policy: The rest.
        clock: Unix seconds.
    """

    def __init__(
        self,
        states: ServingStateSource,
        lists: TimelineResolver,
        ranker: FeedRanker,
        explainer: TimelineExplainer,
        policy: PagePolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._states = states
        self._lists = lists
        self._ranker = ranker
        self._explainer = explainer
        self._policy = policy
        self._clock = clock

    async def page(self, query: TimelineQuery) -> PageResult:
        """The page that a query asks for.

        Whatever takes its time on the way: hidden is what must be hidden at the end of it.

        Raises:
            CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
            InvalidRequest: The page token is not one for this user and these options.
            SnapshotGone: The list that the page token pins is no longer there.
            Refused: Too much is being ranked.
            DeadlineExceeded: Not even the heuristic fits into the time that is left.
        """
        now = self._clock()
        key = timeline_key(query.user_id, self._policy.settings_digest, include_seen=query.include_seen)
        newer = None
        if query.page_token:
            reading = await self._next(key, query, now)
        else:
            reading, newer = await self._first(key, query, now)
        view = self._view(query, now)
        posts, next_offset = _cut(view, query, reading, newer)
        explained = None
        if query.explain:
            explained = await self._explainer.explain(view.state, query.user_id, posts, query.score_by)
            view = self._view(query, now)
            shown = visible(view.catalog, view.visibility, posts.post_ids, view.since)
            posts, explained = posts.where(shown), explained and explained.where(shown)
        return PageResult(
            post_ids=posts.post_ids,
            scores=posts.scores,
            next_page_token=self._token(query, reading, next_offset),
            ranker=reading.snapshot.ranker,
            model_version=reading.snapshot.model_version,
            cache=reading.status,
            degraded_reason=reading.snapshot.degraded_reason,
            explained=explained,
            dropped_posts=self._dropped(view, query, reading.snapshot, posts.post_ids),
        )

    async def _next(self, key: bytes, query: TimelineQuery, now: float) -> _Reading:
        token = self._policy.signer.read(query.page_token, query.user_id, query.include_seen, now)
        age = self._policy.settings.token_ttl - (token.expires_at - now)
        snapshot = await self._lists.pinned(key, token.snapshot_id, age, query.score_by)
        return _Reading(snapshot, CacheStatus.HIT, token.offset, token.expires_at)

    async def _first(
        self, key: bytes, query: TimelineQuery, now: float
    ) -> tuple[_Reading, RankedPosts | None]:
        """The list of a first page, and the posts to merge into it."""
        state = current_state(self._states, self._policy.max_block_age)
        feed_key = FeedKey(query.user_id, query.include_seen)
        began = asyncio.get_running_loop().time()
        wanted = BuildRequest(key, feed_key, query.cache_policy, query.deadline, query.score_by, began)
        snapshot, status = await self._lists.first(state, wanted)
        newer = None
        state = current_state(self._states, self._policy.max_block_age)
        # A list that was just made has all of its catalog; most that were found have, too.
        if state.snapshot.has_changed_since(snapshot.read_at):
            newer = await self._newer(self._view(query, now), query, snapshot)
            if newer is not None and len(newer.rows) > query.page_size:
                self._lists.overtaken(state, wanted)
        return _Reading(snapshot, status, 0, math.ceil(now + self._policy.settings.token_ttl)), newer

    def _view(self, query: TimelineQuery, now: float) -> _View:
        state = current_state(self._states, self._policy.max_block_age)
        catalog, settings = state.snapshot, self._policy.settings
        visibility = VisibilityFilter.of(
            catalog, query.user_id, settings, query.include_seen, query.exclude_post_ids
        )
        return _View(state, catalog, visibility, now, window_start(settings, now))

    async def _newer(self, view: _View, query: TimelineQuery, snapshot: RankedTimeline) -> RankedPosts | None:
        """Posts that came after a list, scored like it; None if there are none, or no time for them."""
        came = self._lists.newer(view.catalog, snapshot)
        rows = newer_posts(view.catalog, view.visibility, snapshot, came, view.since)
        if not len(rows):
            return None
        try:
            async with asyncio.timeout_at(query.score_by):
                return await self._ranker.rank_newer(
                    view.state, query.user_id, snapshot, rows, query.score_by
                )
        except (ScoringFailed, TimeoutError):
            # The list is a good answer without them, and its renewal will have them.
            return None

    def _token(self, query: TimelineQuery, reading: _Reading, offset: int | None) -> str:
        """The token of the page that begins at an offset; empty where there is none."""
        if offset is None:
            return ""
        snapshot_id = reading.snapshot.snapshot_id
        return self._policy.signer.sign(
            PageToken(query.user_id, query.include_seen, snapshot_id, offset, reading.expires_at)
        )

    def _dropped(
        self, view: _View, query: TimelineQuery, snapshot: RankedTimeline, page: IntArray
    ) -> Mapping[int, DropReason]:
        """Why the posts asked about are not in the timeline, on this page int64 (p) or another."""
        if not len(query.explain_post_ids):
            return {}
        # What came after the list is on its first page or on none; on a later one that page is not known.
        newer = page
        if query.page_token:
            newer = view.catalog.post_ids[self._lists.newer(view.catalog, snapshot)]
        listed = np.concatenate((snapshot.post_ids, newer))
        asked, settings = query.explain_post_ids, self._policy.settings
        return exclusion_reasons(view.catalog, view.visibility, asked, listed, settings, view.now)


def _cut(
    view: _View, query: TimelineQuery, reading: _Reading, newer: RankedPosts | None
) -> tuple[PagePosts, int | None]:
    """The posts of a page, and where the next begins."""
    snapshot = reading.snapshot
    shown = partial(visible, view.catalog, view.visibility, since=view.since)
    post_ids, scores = snapshot.post_ids, snapshot.scores
    if newer is None:
        page = paginate(post_ids, reading.offset, query.page_size, shown)
    else:
        page = paginate_merged(snapshot, newer, query.page_size, shown)
        post_ids = np.concatenate((post_ids, newer.post_ids))
        scores = np.concatenate((scores, newer.scores))
    at = page.positions
    return PagePosts(snapshot, newer, at, post_ids.take(at), scores.take(at)), page.next_offset
