"""Timelines: a user's ranked lists, made once, kept, and cut into pages that hide what must be hidden.

`Timelines` answers a query: it has `Lists` find the list, or `ListProducer` make it, and cuts a page.
"""

from animora_server.timeline.explaining import ListExplainer
from animora_server.timeline.feed_ranker import FeedRanker
from animora_server.timeline.keys import settings_digest
from animora_server.timeline.late import LatePosts, PostsOfGeneration
from animora_server.timeline.lists import Lists
from animora_server.timeline.local import BackedTimelines, LocalTimelines
from animora_server.timeline.producer import ListProducer
from animora_server.timeline.protocols import TimelineStore
from animora_server.timeline.timelines import PagePolicy, Timelines
from animora_server.timeline.tokens import TokenSigner

__all__ = [
    "BackedTimelines",
    "FeedRanker",
    "LatePosts",
    "ListExplainer",
    "ListProducer",
    "Lists",
    "LocalTimelines",
    "PagePolicy",
    "PostsOfGeneration",
    "TimelineStore",
    "Timelines",
    "TokenSigner",
    "settings_digest",
]
