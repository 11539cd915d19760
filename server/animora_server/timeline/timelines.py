"""Answers timeline queries: a query in, a page out."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from animora_server.catalog import CatalogSnapshot
from animora_server.errors import ScoringFailed
from animora_server.fast_dataclass import fast_dataclass
from animora_server.scoring.serving_state import ServingState, ServingStateSource, current_state
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
    BoolArray,
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
        max_block_age: Seconds after which blocks that could not be refreshed are too old.
    """

    settings: TimelineSettings
    settings_digest: str
    signer: TokenSigner
    max_block_age: float


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


@fast_dataclass
class _View:
    """What a user may see now: a fresh look at the serving state, and the visibility filter made of it.

    Attributes:
        state: The serving state.
        visibility: The visibility filter.
        since: Unix time from which on posts are in timelines.
    """

    state: ServingState
    visibility: VisibilityFilter
    since: float

    @property
    def catalog(self) -> CatalogSnapshot:
        """The posts."""
        return self.state.snapshot

    def shown(self, post_ids: IntArray) -> BoolArray:
        """Which posts int64 (n) may be shown: bool (n)."""
        return visible(self.state.snapshot, self.visibility, post_ids, self.since)


class Timelines:
    """Cuts pages of users' feeds.

    Args:
        states: Source of serving states.
        resolver: Finds ranked timelines.
        ranker: Scores newer posts.
        explainer: Explains scores.
        policy: How pages are cut.
        clock: Unix seconds.
    """

    def __init__(
        self,
        states: ServingStateSource,
        resolver: TimelineResolver,
        ranker: FeedRanker,
        explainer: TimelineExplainer,
        policy: PagePolicy,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._states = states
        self._resolver = resolver
        self._ranker = ranker
        self._explainer = explainer
        self._policy = policy
        self._clock = clock

    async def page(self, query: TimelineQuery) -> PageResult:
        """Answers a query with a page.

        After each step that waits, the page is based on a fresh look at the serving state: a block that takes
        effect during the call is respected.

        Raises:
            CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
            InvalidRequest: The page token is not valid for this user and these options.
            RankedTimelineGone: The ranked timeline of the page token is no longer stored.
            TooManyRequests: Too many candidates are being ranked.
            DeadlineExpired: Not even the heuristic fits into the time that is left.
        """
        now = self._clock()
        key = timeline_key(query.user_id, self._policy.settings_digest, include_seen=query.include_seen)
        newer = None
        if query.page_token:
            scroll = await self._continue_scroll(key, query, now)
            view = self._look(query, now)
        else:
            scroll, newer, view = await self._begin_scroll(key, query, now)
        posts, next_offset = _cut_page(view, query, scroll, newer)
        explained = None
        if query.explain:
            explained = await self._explainer.explain(view.state, query.user_id, posts, query.score_by)
            view = self._look(query, now)
            shown = view.shown(posts.post_ids)
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
            dropped_posts=self._dropped(view, query, scroll.timeline, posts.post_ids, now),
        )

    async def _continue_scroll(self, key: bytes, query: TimelineQuery, now: float) -> _Scroll:
        """The scroll of a later page, as the page token says."""
        token = self._policy.signer.read(query.page_token, query.user_id, query.include_seen, now)
        age = self._policy.settings.token_ttl - (token.expires_at - now)
        timeline = await self._resolver.by_id(key, token.timeline_id, age, query.score_by)
        return _Scroll(timeline, CacheStatus.HIT, token.offset, token.expires_at)

    async def _begin_scroll(
        self, key: bytes, query: TimelineQuery, now: float
    ) -> tuple[_Scroll, RankedPosts | None, _View]:
        """The scroll of a first page, the newer posts to merge into the page, and the latest view."""
        state = current_state(self._states, self._policy.max_block_age)
        feed_key = FeedKey(query.user_id, query.include_seen)
        began = asyncio.get_running_loop().time()
        request = BuildRequest(key, feed_key, query.cache_policy, query.deadline, query.score_by, began)
        timeline, status = await self._resolver.for_first_page(state, request)
        scroll = _Scroll(timeline, status, 0, math.ceil(now + self._policy.settings.token_ttl))
        view = self._look(query, now)
        if not view.catalog.has_changed_since(timeline.read_at):
            return scroll, None, view
        rows = self._resolver.newer_rows(view.catalog, timeline)
        rows = newer_posts(view.catalog, view.visibility, timeline, rows, view.since)
        if not len(rows):
            return scroll, None, view
        newer = await self._score_newer(view.state, query, timeline, rows)
        if newer is not None and len(newer.rows) > query.page_size:
            self._resolver.refresh_for_newer_posts(view.state, request)
        return scroll, newer, self._look(query, now)

    def _look(self, query: TimelineQuery, now: float) -> _View:
        """Takes the current serving state. Raises CatalogUnavailable."""
        state = current_state(self._states, self._policy.max_block_age)
        settings = self._policy.settings
        visibility = VisibilityFilter.of(
            state.snapshot, query.user_id, settings, query.include_seen, query.exclude_post_ids
        )
        return _View(state, visibility, window_start(settings, now))

    async def _score_newer(
        self, state: ServingState, query: TimelineQuery, timeline: RankedTimeline, rows: IntArray
    ) -> RankedPosts | None:
        """Ranks newer posts at catalog rows int64 (m); None if scoring fails or is late."""
        try:
            async with asyncio.timeout_at(query.score_by):
                return await self._ranker.rank_newer(state, query.user_id, timeline, rows, query.score_by)
        except (ScoringFailed, TimeoutError):
            # The timeline is a good answer without them, and the next one will hold them.
            return None

    def _token(self, query: TimelineQuery, scroll: _Scroll, offset: int | None) -> str:
        """The token of the page that begins at an offset; empty for None."""
        if offset is None:
            return ""
        timeline_id = scroll.timeline.timeline_id
        return self._policy.signer.sign(
            PageToken(query.user_id, query.include_seen, timeline_id, offset, scroll.expires_at)
        )

    def _dropped(
        self, view: _View, query: TimelineQuery, timeline: RankedTimeline, page: IntArray, now: float
    ) -> Mapping[int, DropReason]:
        """Why posts of `explain_post_ids` are neither in the timeline nor on this page int64 (p)."""
        if not len(query.explain_post_ids):
            return {}
        # Newer posts are on the first page or on none. On a later page, the first page is not known.
        newer = page
        if query.page_token:
            newer = view.catalog.post_ids[self._resolver.newer_rows(view.catalog, timeline)]
        in_timeline = np.concatenate((timeline.post_ids, newer))
        return exclusion_reasons(
            view.catalog, view.visibility, query.explain_post_ids, in_timeline, self._policy.settings, now
        )


def _cut_page(
    view: _View, query: TimelineQuery, scroll: _Scroll, newer: RankedPosts | None
) -> tuple[PagePosts, int | None]:
    """The posts of a page, and the offset of the next page; None if this is the last."""
    timeline = scroll.timeline
    post_ids, scores = timeline.post_ids, timeline.scores
    if newer is None:
        page = paginate(post_ids, scroll.offset, query.page_size, view.shown)
    else:
        page = paginate_merged(timeline, newer, query.page_size, view.shown)
        post_ids = np.concatenate((post_ids, newer.post_ids))
        scores = np.concatenate((scores, newer.scores))
    at = page.positions
    return PagePosts(timeline, newer, at, post_ids.take(at), scores.take(at)), page.next_offset
