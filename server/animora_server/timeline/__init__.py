"""Timelines: ranked timelines are built once and stored; pages are cut from them and filtered when cut.

`Timelines` answers a query. `TimelineProvider` looks the ranked timeline up, or has `FeedRanker` build it.
"""

from animora_server.timeline.feed_ranker import FeedRanker
from animora_server.timeline.newer import NewerPosts, PostsOfGeneration
from animora_server.timeline.pages import TokenSigner, token_signer
from animora_server.timeline.provider import TimelineProvider
from animora_server.timeline.store import (
    LocalTimelineStore,
    TieredTimelineStore,
    TimelineStore,
    settings_digest,
)
from animora_server.timeline.timelines import FeedPolicy, Timelines, feed_policies

__all__ = [
    "FeedPolicy",
    "FeedRanker",
    "LocalTimelineStore",
    "NewerPosts",
    "PostsOfGeneration",
    "TieredTimelineStore",
    "TimelineProvider",
    "TimelineStore",
    "Timelines",
    "TokenSigner",
    "feed_policies",
    "settings_digest",
    "token_signer",
]
