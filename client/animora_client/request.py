"""The requests of Rank and GetTimeline, and their options."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict


class CachePolicy(StrEnum):
    """How a request uses the server's cache."""

    DEFAULT = "default"  # read and write
    REFRESH = "refresh"  # compute, then write
    BYPASS = "bypass"  # compute; neither read nor write


class Priority(StrEnum):
    """Which calls an overloaded server refuses first."""

    INTERACTIVE = "interactive"  # a person waits for the answer
    BATCH = "batch"  # refused before interactive calls


class RankOptions(TypedDict, total=False):
    """The keyword arguments of `rank`: the optional fields of `RankRequest`, which documents them."""

    limit: int
    cache_policy: CachePolicy
    model_version: str
    exclude_seen: bool
    exclude_post_ids: Collection[int]
    explain: bool


class TimelineOptions(TypedDict, total=False):
    """The keyword arguments of `timeline` and `timeline_page`: the optional fields of `TimelineRequest`."""

    page_size: int
    page_token: str
    exclude_post_ids: Collection[int]
    include_seen: bool
    cache_policy: CachePolicy
    explain: bool
    explain_post_ids: Collection[int]


@dataclass(frozen=True, slots=True)
class RankRequest:
    """A user and the posts to rank. Ids are signed 64-bit integers; 0 is a valid id.

    Attributes:
        user_id: The user to rank for; an id that the model does not know is a cold user.
        post_ids: The candidates, 1 to 10,000: a list, a tuple, an integer array.
        limit: Posts to return at most; 0 returns all.
        cache_policy: How to use the server's cache.
        model_version: Empty for the active version; else a version that the server has loaded.
        exclude_seen: Drop posts that the user has liked or commented on.
        exclude_post_ids: More posts to drop, up to 1,000.
        explain: Return the terms of each score, and why each candidate was dropped; allows at most 500
            candidates.
    """

    user_id: int
    post_ids: Collection[int]
    limit: int = 0
    cache_policy: CachePolicy = CachePolicy.DEFAULT
    model_version: str = ""
    exclude_seen: bool = False
    exclude_post_ids: Collection[int] = ()
    explain: bool = False


@dataclass(frozen=True, slots=True)
class TimelineRequest:
    """A user, and which page of the user's timeline.

    Attributes:
        user_id: The user; an id that the model does not know is a cold user.
        page_size: Posts on the page at most; 0 for the server's default; the server caps larger values.
        page_token: The `next_page_token` of the previous page; empty for the first page.
        exclude_post_ids: Posts to leave out, up to 1,000.
        include_seen: Keep posts that the user has liked or commented on.
        cache_policy: How to use the server's cache; matters for the first page.
        explain: Return the terms of each score.
        explain_post_ids: Posts for which to return why they are not in the timeline, up to 500.
    """

    user_id: int
    page_size: int = 0
    page_token: str = ""
    exclude_post_ids: Collection[int] = ()
    include_seen: bool = False
    cache_policy: CachePolicy = CachePolicy.DEFAULT
    explain: bool = False
    explain_post_ids: Collection[int] = ()
