"""Timelines: a query in, a page out."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from animora_server.errors import ScoringFailed
from animora_server.ranker.pinning import current_pin
from animora_server.ranker.protocols import Pin, Pins
from animora_server.ranker.relevance import RESERVE
from animora_server.settings import TimelineSettings
from animora_server.timeline.eligibility import Viewer, newcomers, visible, why_not, window_start
from animora_server.timeline.explaining import ListExplainer, PagePosts
from animora_server.timeline.feed_ranker import Audience, FeedRanker
from animora_server.timeline.keys import timeline_key
from animora_server.timeline.lists import FirstPage, Lists
from animora_server.timeline.making import Listed
from animora_server.timeline.pages import cut, cut_merged
from animora_server.timeline.tokens import PageToken, TokenSigner
from animora_server.types import (
    CacheStatus,
    DropReason,
    IntArray,
    TimelinePage,
    TimelineQuery,
    TimelineSnapshot,
)


@dataclass(frozen=True, slots=True)
class _Reading:
    """Where a page is read from: a list, where in it, and how long the scroll through it may last."""

    snapshot: TimelineSnapshot
    status: CacheStatus
    offset: int
    expires_at: int
    newer: Listed | None = None


@dataclass(frozen=True, slots=True)
class _View:
    """What a page is seen through: the catalog and whoever looks, at a time.

    Attributes:
        pin: The catalog and the models.
        viewer: Who looks.
        now: Unix seconds.
        since: Unix time from which on posts are in timelines.
    """

    pin: Pin
    viewer: Viewer
    now: float
    since: float


class Timelines:
    """Cuts pages of users' feeds.

    Args:
        pins: Gives out the catalog and the models.
        lists: Where lists come from.
        ranker: Scores what is newer than a list.
        explainer: Says what scores are made of.
        policy: The rest.
        clock: Unix seconds.
    """

    def __init__(
        self,
        pins: Pins,
        lists: Lists,
        ranker: FeedRanker,
        explainer: ListExplainer,
        policy: "PagePolicy",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pins = pins
        self._lists = lists
        self._ranker = ranker
        self._explainer = explainer
        self._policy = policy
        self._clock = clock

    async def page(self, query: TimelineQuery) -> TimelinePage:
        """The page that a query asks for.

        Raises:
            CatalogUnavailable: The catalog is not loaded, or its blocks are too old.
            InvalidRequest: The page token is not one for this user and these options.
            SnapshotGone: The list that the page token pins is no longer there.
            DeadlineExceeded: Not even the heuristic fits into the time that is left.
        """
        now = self._clock()
        key = timeline_key(query.user_id, self._policy.settings_digest, include_seen=query.include_seen)
        if query.page_token:
            reading = await self._next(key, query, now)
        else:
            reading = await self._first(key, query, now)
        # Whatever took its time: hidden is what must be hidden now.
        view = self._view(query, now)
        if reading.status in (CacheStatus.HIT, CacheStatus.STALE) and not query.page_token:
            newer = await self._newer(view, query, reading.snapshot)
            if newer is not None:
                return await self._cut(self._view(query, now), query, replace(reading, newer=newer))
        return await self._cut(view, query, reading)

    async def _next(self, key: bytes, query: TimelineQuery, now: float) -> _Reading:
        token = self._policy.signer.read(query.page_token, query.user_id, query.include_seen, now)
        snapshot = await self._lists.pinned(key, token.snapshot_id)
        return _Reading(snapshot, CacheStatus.HIT, token.offset, token.expires_at)

    async def _first(self, key: bytes, query: TimelineQuery, now: float) -> _Reading:
        pin = current_pin(self._pins, self._policy.max_block_age)
        audience = Audience(query.user_id, query.include_seen)
        wanted = FirstPage(key, audience, query.cache_policy, query.deadline)
        snapshot, status = await self._lists.first(pin, wanted)
        return _Reading(snapshot, status, 0, int(now + self._policy.settings.token_ttl))

    def _view(self, query: TimelineQuery, now: float) -> _View:
        pin = current_pin(self._pins, self._policy.max_block_age)
        settings = self._policy.settings
        viewer = Viewer.of(pin.snapshot, query.user_id, settings, query.include_seen, query.exclude_post_ids)
        return _View(pin, viewer, now, window_start(settings, now))

    async def _newer(self, view: _View, query: TimelineQuery, snapshot: TimelineSnapshot) -> Listed | None:
        """Posts that came after a list, scored like it; None if there are none, or no time for them."""
        rows = newcomers(view.pin.snapshot, view.viewer, snapshot.post_ids, snapshot.read_at, view.since)
        if not len(rows):
            return None
        rows = rows[-self._policy.settings.max_candidates :]
        deadline = query.deadline - RESERVE
        try:
            async with asyncio.timeout_at(deadline):
                return await self._ranker.rank_newer(view.pin, query.user_id, snapshot, rows, deadline)
        except (ScoringFailed, TimeoutError):
            # The list is a good answer without them, and its renewal will have them.
            return None

    async def _cut(self, view: _View, query: TimelineQuery, reading: _Reading) -> TimelinePage:
        snapshot, newer = reading.snapshot, reading.newer
        shown = partial(visible, view.pin.snapshot, view.viewer, since=view.since)
        listed, scores = snapshot.post_ids, snapshot.scores
        if newer is None:
            page = cut(listed, reading.offset, query.page_size, shown)
        else:
            page = cut_merged(snapshot, newer, query.page_size, shown)
            listed = np.concatenate((listed, newer.post_ids))
            scores = np.concatenate((scores, newer.scores))
        post_ids, scores = listed.take(page.positions), scores.take(page.positions)
        explained = None
        if query.explain:
            posts = PagePosts(snapshot, newer, page.positions, post_ids, scores)
            explained = await self._explainer.explain(view.pin, query.user_id, posts, query.deadline)
        return TimelinePage(
            post_ids=post_ids,
            scores=scores,
            next_page_token=self._token(query, reading, page.next_offset),
            ranker=snapshot.ranker,
            model_version=snapshot.model_version,
            cache=reading.status,
            degraded_reason=snapshot.degraded_reason,
            explained=explained,
            dropped_posts=self._dropped(view, query, listed),
        )

    def _token(self, query: TimelineQuery, reading: _Reading, offset: int | None) -> str:
        """The token of the page that begins at an offset; empty where there is none."""
        if offset is None:
            return ""
        snapshot_id = reading.snapshot.snapshot_id
        return self._policy.signer.sign(
            PageToken(query.user_id, query.include_seen, snapshot_id, offset, reading.expires_at)
        )

    def _dropped(self, view: _View, query: TimelineQuery, listed: IntArray) -> Mapping[int, DropReason]:
        """Why the posts asked about are not in the timeline."""
        if not len(query.explain_post_ids):
            return {}
        catalog, settings = view.pin.snapshot, self._policy.settings
        return why_not(catalog, view.viewer, query.explain_post_ids, listed, settings, view.now)


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
