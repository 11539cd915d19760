"""Timelines: ranked timelines are built once and stored; pages are cut from them and filtered when cut.

`Timelines` answers a query. `TimelineResolver` finds the ranked timeline, or has `TimelineBuilder` build it.
"""

from animora_server.timeline.builder import TimelineBuilder
from animora_server.timeline.explainer import TimelineExplainer
from animora_server.timeline.feed_ranker import FeedRanker
from animora_server.timeline.keys import settings_digest
from animora_server.timeline.late import LatePosts, PostsOfGeneration
from animora_server.timeline.local_store import LocalTimelineStore, TieredTimelineStore
from animora_server.timeline.protocols import TimelineStore
from animora_server.timeline.resolver import TimelineResolver
from animora_server.timeline.timelines import PagePolicy, Timelines
from animora_server.timeline.tokens import TokenSigner

__all__ = [
    "FeedRanker",
    "LatePosts",
    "LocalTimelineStore",
    "PagePolicy",
    "PostsOfGeneration",
    "TieredTimelineStore",
    "TimelineBuilder",
    "TimelineExplainer",
    "TimelineResolver",
    "TimelineStore",
    "Timelines",
    "TokenSigner",
    "settings_digest",
]
