"""Answers timeline queries: a query in, a page out."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from animora_server.errors import ScoringFailed
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.serving_state import ServingState, ServingStateHolder
from animora_server.settings import TimelineSettings
from animora_server.timeline.eligibility import VisibilityFilter, exclusion_reasons
from animora_server.timeline.explainer import PagePosts, explain_page
from animora_server.timeline.feed_ranker import FeedRanker, RankedPosts
from animora_server.timeline.newer import NO_ROWS, NewerPosts
from animora_server.timeline.pages import PageToken, TokenSigner, paginate, paginate_merged
from animora_server.timeline.provider import TimelineProvider
from animora_server.timeline.store import timeline_key
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
    """How pages are cut.

    Attributes:
        settings: Sizes, windows, times to live.
        settings_digest: Digest of the settings that shape ranked timelines.
        signer: Signs page tokens.
    """

    settings: TimelineSettings
    settings_digest: str
    signer: TokenSigner


@fast_dataclass
class _Scroll:
    """A user's scroll through a ranked timeline.

    Attributes:
        timeline: The ranked timeline.
        status: How the timeline was found.
        offset: Where the page begins in the timeline.
        expires_at: Unix seconds, whole: when the page tokens of the scroll expire.
    """

    timeline: RankedTimeline
    status: CacheStatus
    offset: int
    expires_at: int


class Timelines:
    """Cuts pages of users' feeds.

    Args:
        states: Source of serving states.
        provider: Provides ranked timelines.
        ranker: Ranks newer posts, and explains scores.
        newer: Finds newer posts.
        policy: How pages are cut.
        clock: Unix seconds.
    """

    def __init__(
        self,
        states: ServingStateHolder,
        provider: TimelineProvider,
        ranker: FeedRanker,
        newer: NewerPosts,
        policy: PagePolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._states = states
        self._provider = provider
        self._ranker = ranker
        self._newer = newer
        self._policy = policy
        self._clock = clock

    async def page(self, query: TimelineQuery) -> PageResult:
        """Answers a query with a page: finds the ranked timeline, merges newer posts in, cuts, explains.

        A block may take effect during each `await`, so after each of them `_current_view` takes the serving
        state again and makes another visibility filter.

        Raises:
            CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
            InvalidRequest: The page token is not valid for this user and these options.
            RankedTimelineGone: The ranked timeline of the page token is no longer stored.
            TooManyRequests: Too many candidates are being ranked.
            DeadlineExpired: Not even the heuristic fits into the time that is left.
        """
        now = self._clock()
        key = timeline_key(query.user_id, self._policy.settings_digest, include_seen=query.include_seen)
        if query.page_token:
            scroll = await self._continue_scroll(key, query, now)
        else:
            scroll = await self._begin_scroll(key, query, now)
        state, visibility = self._current_view(query, now)
        newer = None
        rows = NO_ROWS if query.page_token else self._newer_rows(visibility, scroll.timeline, now)
        if len(rows):
            newer = await self._rank_newer(state, key, query, scroll.timeline, rows)
            state, visibility = self._current_view(query, now)
        posts, next_offset = _cut_page(visibility, query, scroll, newer)
        explained = None
        if query.explain:
            explained = await explain_page(self._ranker, state, query.user_id, posts, query.score_by)
            state, visibility = self._current_view(query, now)
            shown = visibility.shown(posts.post_ids)
            posts, explained = posts.where(shown), explained and explained.where(shown)
        return PageResult(
            post_ids=posts.post_ids,
            scores=posts.scores,
            next_page_token=self._token(query, scroll, next_offset),
            ranker=scroll.timeline.ranker,
            model_version=scroll.timeline.model_version,
            cache=scroll.status,
            degraded_reason=scroll.timeline.degraded_reason,
            explained=explained,
            dropped_posts=self._dropped(visibility, query, scroll.timeline, posts.post_ids, now),
        )

    async def _continue_scroll(self, key: bytes, query: TimelineQuery, now: float) -> _Scroll:
        """The scroll of a later page, as the page token says."""
        token = self._policy.signer.read(query.page_token, query.user_id, query.include_seen, now)
        age = self._policy.settings.token_ttl - (token.expires_at - now)
        timeline = await self._provider.by_id(key, token.timeline_id, age, query.score_by)
        return _Scroll(timeline, CacheStatus.HIT, token.offset, token.expires_at)

    async def _begin_scroll(self, key: bytes, query: TimelineQuery, now: float) -> _Scroll:
        """The scroll of a first page, through the latest timeline."""
        state = self._states.current()
        timeline, status = await self._provider.latest(state, key, query)
        return _Scroll(timeline, status, 0, math.ceil(now + self._policy.settings.token_ttl))

    def _current_view(self, query: TimelineQuery, now: float) -> tuple[ServingState, VisibilityFilter]:
        """Takes the current serving state, and the user's filter of it. Raises CatalogUnavailable."""
        state = self._states.current()
        return state, VisibilityFilter.of(
            state.snapshot,
            self._policy.settings,
            now,
            query.user_id,
            query.include_seen,
            query.exclude_post_ids,
        )

    def _newer_rows(self, visibility: VisibilityFilter, timeline: RankedTimeline, now: float) -> IntArray:
        """Catalog rows int64 (m) of the newer posts to merge into a first page."""
        if not visibility.catalog.has_changed_since(timeline.read_at):
            return NO_ROWS
        return self._newer.to_merge(visibility, timeline, now)

    async def _rank_newer(
        self, state: ServingState, key: bytes, query: TimelineQuery, timeline: RankedTimeline, rows: IntArray
    ) -> RankedPosts | None:
        """Ranks newer posts at catalog rows int64 (m); None if scoring fails or is late.

        If they do not fit on the first page, a timeline that holds them is built in the background.
        """
        try:
            async with asyncio.timeout_at(query.score_by):
                newer = await self._ranker.rank_newer(state, query.user_id, timeline, rows, query.score_by)
        except (ScoringFailed, TimeoutError):
            # The timeline is a good answer without them, and the next one will hold them.
            return None
        if len(newer.rows) > query.page_size:
            self._provider.refresh_in_background(state, key, query, "newer")
        return newer

    def _token(self, query: TimelineQuery, scroll: _Scroll, offset: int | None) -> str:
        """The token of the page that begins at an offset; empty for None."""
        if offset is None:
            return ""
        timeline_id = scroll.timeline.timeline_id
        return self._policy.signer.sign(
            PageToken(query.user_id, query.include_seen, timeline_id, offset, scroll.expires_at)
        )

    def _dropped(
        self,
        visibility: VisibilityFilter,
        query: TimelineQuery,
        timeline: RankedTimeline,
        page: IntArray,
        now: float,
    ) -> Mapping[int, DropReason]:
        """Why posts of `explain_post_ids` are neither in the timeline nor on this page int64 (p)."""
        if not len(query.explain_post_ids):
            return {}
        # Newer posts are on the first page or on none. On a later page, the first page is not known.
        newer = page
        if query.page_token:
            catalog = visibility.catalog
            newer = catalog.post_ids[self._newer.rows(catalog, timeline, now)]
        in_timeline = np.concatenate((timeline.post_ids, newer))
        limit = self._policy.settings.max_candidates
        return exclusion_reasons(visibility, query.explain_post_ids, in_timeline, limit)


def _cut_page(
    visibility: VisibilityFilter, query: TimelineQuery, scroll: _Scroll, newer: RankedPosts | None
) -> tuple[PagePosts, int | None]:
    """The posts of a page, and the offset of the next page; None if this is the last."""
    timeline = scroll.timeline
    post_ids, scores = timeline.post_ids, timeline.scores
    if newer is None:
        page = paginate(post_ids, scroll.offset, query.page_size, visibility.shown)
    else:
        page = paginate_merged(timeline, newer, query.page_size, visibility.shown)
        post_ids = np.concatenate((post_ids, newer.post_ids))
        scores = np.concatenate((scores, newer.scores))
    at = page.positions
    return PagePosts(timeline, newer, at, post_ids.take(at), scores.take(at)), page.next_offset
