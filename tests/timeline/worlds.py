"""Timelines with fakes around them: thirty posts, a model that knows users below 100."""

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np

from animora_server.rollout_names import CONTROL
from animora_server.scoring.arms import Arms
from animora_server.scoring.heuristic import Heuristic
from animora_server.service.admission import AdmissionController
from animora_server.settings import ExperimentSettings, RankingSettings, TimelineSettings
from animora_server.timeline import (
    FeedPolicy,
    FeedRanker,
    LocalTimelineStore,
    NewerPosts,
    TimelineProvider,
    Timelines,
    TokenSigner,
    settings_digest,
)
from animora_server.types import GenerationPosts, TimelineQuery
from tests.support.arms import Fallbacks
from tests.support.catalogs import NOW, snapshot
from tests.support.clocks import ManualClock
from tests.support.deadlines import with_short_timeout
from tests.support.models import FakeStateHolder
from tests.timeline.fakes import CountingStore, Refreshes

USER, COLD = 7, 500
HOUR = 3600.0
# Post n is n hours old, and the better the younger; even ones are of author 1000, odd ones of 1001.
POSTS = {post: {"author": 1000 + post % 2, "age": post * HOUR} for post in range(1, 31)}
LOGITS = {post: 3.0 - post / 10 for post in POSTS}
ALL = list(POSTS)


class World:
    """Timelines with fakes around them."""

    def __init__(self, **settings):
        self.settings = TimelineSettings(**{"early_refresh": 0.0, **settings})
        self.clock = ManualClock(NOW)
        self.state = FakeStateHolder(snapshot(POSTS))
        self.model = self.state.activate(LOGITS)
        self.store = CountingStore(LocalTimelineStore(2400.0, self.clock))
        self.refreshes = Refreshes()
        self.generation_posts: GenerationPosts | None = None
        self.monotonic = ManualClock()
        self.ranker = FeedRanker(Heuristic(), self.settings, self.clock)
        self.provider = TimelineProvider(
            self.store,
            self.settings,
            AdmissionController(max_calls=1, max_rows=1000),
            self.refreshes,
            self.clock,
            self.monotonic,
        )
        self.timelines = self.timelines_in({})

    def timelines_in(self, arms: dict[str, dict[str, Any]], fallbacks: Fallbacks | None = None) -> Timelines:
        """Timelines over the same store with arms of an experiment, by name."""
        experiments = ExperimentSettings.model_validate({"arms": arms})
        policies = {CONTROL: FeedPolicy(self.ranker, self._newer(self.settings), "digest")}
        for name, arm in experiments.arms.items():
            settings = arm.applied_to(self.settings)
            digest = "digest" if settings == self.settings else settings_digest(settings, RankingSettings())
            ranker = FeedRanker(Heuristic(), settings, self.clock)
            policies[name] = FeedPolicy(ranker, self._newer(settings), digest)
        self.arms = Arms(experiments, fallbacks or Fallbacks())
        signer = TokenSigner(b"k" * 16)
        return Timelines(self.state, self.provider, signer, policies, self.arms if arms else None, self.clock)

    def _newer(self, settings: TimelineSettings) -> NewerPosts:
        return NewerPosts(lambda: self.generation_posts, settings)

    async def page(self, user_id=USER, timeout=60.0, **query):
        """A page; half of its time is kept for the heuristic, so that a busy machine can give it in time."""
        deadline = asyncio.get_running_loop().time() + timeout
        query = {"reserve": timeout / 2, "size": 10, **query}
        return await self.timelines.page(TimelineQuery(user_id, query.pop("size"), deadline, **query))

    async def page_with_short_timeout(self, **query):
        """A page with too little time for a model that does not answer."""
        return await with_short_timeout(lambda timeout: self.page(timeout=timeout, **query))

    async def all_pages(self, **query):
        page = await self.page(**query)
        posts = page.post_ids.tolist()
        while page.next_page_token:
            page = await self.page(page_token=page.next_page_token, **query)
            posts += page.post_ids.tolist()
        return posts

    def add(self, newer: dict[int, dict[str, float]], **more) -> None:
        """Adds posts that arrive ten seconds after NOW; other arguments are as for `snapshot`."""
        later = snapshot({**POSTS, **newer}, **more)
        arrived_at = np.where(np.isin(later.post_ids, list(newer)), NOW + 10, NOW)
        self.state.snapshot = replace(later, arrived_at=arrived_at, read_at=NOW + 10)
