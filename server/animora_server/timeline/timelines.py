"""Answers timeline queries: a query in, a page out."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from animora_server.errors import ModelNotResident, ScoringFailed
from animora_server.fast_dataclass import fast_dataclass
from animora_server.rollout_names import CONTROL
from animora_server.scoring.arms import CONTROL_ARM, Arm, Arms
from animora_server.scoring.heuristic import Heuristic
from animora_server.scoring.serving_state import ServingState, ServingStateHolder
from animora_server.settings import Settings, TimelineSettings
from animora_server.timeline.eligibility import VisibilityFilter, exclusion_reasons
from animora_server.timeline.explainer import PagePosts, explain_page
from animora_server.timeline.feed_ranker import FeedRanker, RankedPosts
from animora_server.timeline.newer import NO_ROWS, NewerPosts, PostsOfGeneration
from animora_server.timeline.pages import PageToken, TokenSigner, arm_bytes, paginate, paginate_merged
from animora_server.timeline.provider import BuildRequest, TimelineProvider
from animora_server.timeline.store import settings_digest, timeline_key
from animora_server.types import (
    CacheStatus,
    DropReason,
    IntArray,
    PageResult,
    RankedTimeline,
    TimelineQuery,
)


@dataclass(frozen=True, slots=True)
class FeedPolicy:
    """How the feeds of an arm's users are ranked, and how pages are cut from them.

    Attributes:
        ranker: Ranks feeds and newer posts, and explains scores; its settings are the arm's.
        newer: Finds newer posts.
        settings_digest: Digest of the settings that shape ranked timelines.
    """

    ranker: FeedRanker
    newer: NewerPosts
    settings_digest: str

    @property
    def settings(self) -> TimelineSettings:
        """Sizes, windows, times to live."""
        return self.ranker.settings

    def key(self, query: TimelineQuery) -> bytes:
        """The key of the user's timelines."""
        return timeline_key(query.user_id, self.settings_digest, include_seen=query.include_seen)


def feed_policies(
    settings: Settings, heuristic: Heuristic, posts_of_generation: PostsOfGeneration
) -> dict[str, FeedPolicy]:
    """The policy of each arm by name, `CONTROL` included.

    Args:
        settings: All options.
        heuristic: Ranks users whom the model does not know.
        posts_of_generation: Returns the posts of the current generation.
    """
    variants = {CONTROL: settings.timeline}
    for name, arm in settings.experiments.arms.items():
        variants[name] = arm.applied_to(settings.timeline)
    return {
        name: FeedPolicy(
            FeedRanker(heuristic, timeline),
            NewerPosts(posts_of_generation, timeline),
            settings_digest(timeline, settings.ranking),
        )
        for name, timeline in variants.items()
    }


@fast_dataclass
class _Scroll:
    """A user's scroll through a ranked timeline.

    Attributes:
        timeline: The ranked timeline.
        status: How the timeline was found.
        offset: Where the page begins in the timeline.
        expires_at: Unix seconds, whole: when the page tokens of the scroll expire.
        arm: The arm that serves the scroll.
        policy: The arm's.
    """

    timeline: RankedTimeline
    status: CacheStatus
    offset: int
    expires_at: int
    arm: Arm
    policy: FeedPolicy


class Timelines:
    """Cuts pages of users' feeds.

    Args:
        states: Source of serving states.
        provider: Provides ranked timelines.
        signer: Signs page tokens.
        policies: The policy of each arm by name, `CONTROL` included.
        arms: The arms of the experiments; None without experiments.
        clock: Unix seconds.
    """

    def __init__(
        self,
        states: ServingStateHolder,
        provider: TimelineProvider,
        signer: TokenSigner,
        policies: Mapping[str, FeedPolicy],
        arms: Arms | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._states = states
        self._provider = provider
        self._signer = signer
        self._policies = policies
        self._arms = arms
        self._arms_of_tokens = {arm_bytes(arm.name): arm for arm in (arms.all if arms else ())}
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
        scroll = await (
            self._continue_scroll(query, now) if query.page_token else self._begin_scroll(query, now)
        )
        policy = scroll.policy
        state, visibility = self._current_view(policy, query, now)
        newer = None
        rows = NO_ROWS if query.page_token else _newer_rows(policy, visibility, scroll.timeline, now)
        if len(rows):
            newer = await self._rank_newer(state, query, scroll, rows)
            state, visibility = self._current_view(policy, query, now)
        posts, next_offset = _cut_page(visibility, query, scroll, newer)
        explained = None
        if query.explain:
            explained = await explain_page(policy.ranker, state, query.user_id, posts, query.score_by)
            state, visibility = self._current_view(policy, query, now)
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
            arm="" if self._arms is None else scroll.arm.name,
            explained=explained,
            dropped_posts=_dropped(visibility, query, scroll, posts.post_ids, now),
        )

    async def _continue_scroll(self, query: TimelineQuery, now: float) -> _Scroll:
        """The scroll of a later page, as the page token says, with the arm in which it began.

        The control arm continues the scroll of an arm that is no longer configured: the timeline is found if
        the arm had its settings.
        """
        token = self._signer.read(query.page_token, query.user_id, query.include_seen, now)
        arm = self._arms_of_tokens.get(token.arm, CONTROL_ARM)
        policy = self._policies[arm.name]
        age = policy.settings.token_ttl - (token.expires_at - now)
        timeline = await self._provider.by_id(policy.key(query), token.timeline_id, age, query.score_by)
        return _Scroll(timeline, CacheStatus.HIT, token.offset, token.expires_at, arm, policy)

    async def _begin_scroll(self, query: TimelineQuery, now: float) -> _Scroll:
        """The scroll of a first page, through the latest timeline."""
        state, arm = self._states.current(), CONTROL_ARM
        if self._arms is not None:
            arm = self._arms.serving(state, query.user_id)
            state = state.with_active(arm.model_version)
        policy = self._policies[arm.name]
        request = BuildRequest(policy.key(query), query, state, policy.ranker)
        timeline, status = await self._provider.latest(request)
        return _Scroll(timeline, status, 0, math.ceil(now + policy.settings.token_ttl), arm, policy)

    def _current_view(
        self, policy: FeedPolicy, query: TimelineQuery, now: float
    ) -> tuple[ServingState, VisibilityFilter]:
        """Takes the current serving state, and the user's filter of it. Raises CatalogUnavailable."""
        state = self._states.current()
        return state, VisibilityFilter.of(
            state.snapshot,
            policy.settings,
            now,
            query.user_id,
            query.include_seen,
            query.exclude_post_ids,
        )

    async def _rank_newer(
        self, state: ServingState, query: TimelineQuery, scroll: _Scroll, rows: IntArray
    ) -> RankedPosts | None:
        """Ranks newer posts at catalog rows int64 (m); None if scoring fails or is late.

        If they do not fit on the first page, a timeline that holds them is built in the background.
        """
        ranker, deadline = scroll.policy.ranker, query.score_by
        try:
            async with asyncio.timeout_at(deadline):
                newer = await ranker.rank_newer(state, query.user_id, scroll.timeline, rows, deadline)
        except (ScoringFailed, TimeoutError):
            # The timeline is a good answer without them, and the next one will hold them.
            return None
        if len(newer.rows) > query.page_size:
            with suppress(ModelNotResident):  # the arm's version was evicted meanwhile
                state = state.with_active(scroll.arm.model_version)
                request = BuildRequest(scroll.policy.key(query), query, state, ranker)
                self._provider.refresh_in_background(request, "newer")
        return newer

    def _token(self, query: TimelineQuery, scroll: _Scroll, offset: int | None) -> str:
        """The token of the page that begins at an offset; empty for None."""
        if offset is None:
            return ""
        arm = b"" if scroll.arm is CONTROL_ARM else arm_bytes(scroll.arm.name)
        timeline_id = scroll.timeline.timeline_id
        return self._signer.sign(
            PageToken(query.user_id, query.include_seen, timeline_id, offset, scroll.expires_at, arm)
        )


def _newer_rows(
    policy: FeedPolicy, visibility: VisibilityFilter, timeline: RankedTimeline, now: float
) -> IntArray:
    """Catalog rows int64 (m) of the newer posts to merge into a first page."""
    if not visibility.catalog.has_changed_since(timeline.read_at):
        return NO_ROWS
    return policy.newer.to_merge(visibility, timeline, now)


def _dropped(
    visibility: VisibilityFilter, query: TimelineQuery, scroll: _Scroll, page: IntArray, now: float
) -> Mapping[int, DropReason]:
    """Why posts of `explain_post_ids` are neither in the timeline nor on this page int64 (p)."""
    if not len(query.explain_post_ids):
        return {}
    # Newer posts are on the first page or on none. On a later page, the first page is not known.
    newer = page
    if query.page_token:
        catalog = visibility.catalog
        newer = catalog.post_ids[scroll.policy.newer.rows(catalog, scroll.timeline, now)]
    in_timeline = np.concatenate((scroll.timeline.post_ids, newer))
    limit = scroll.policy.settings.max_candidates
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
