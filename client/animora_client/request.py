"""What a caller asks: whose posts, which, and how."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import TypedDict


class CachePolicy(StrEnum):
    """How a request uses the server's cache."""

    DEFAULT = "default"  # read and write
    REFRESH = "refresh"  # compute, then write
    BYPASS = "bypass"  # compute; neither read nor write


class RankOptions(TypedDict, total=False):
    """The keywords of `rank`; the same as `RankRequest`'s optional fields, which say what they mean."""

    limit: int
    cache_policy: CachePolicy
    model_version: str
    exclude_seen: bool
    exclude_post_ids: Collection[int]
    explain: bool


class TimelineOptions(TypedDict, total=False):
    """The keywords of `timeline` and `timeline_page`: `TimelineRequest`'s optional fields."""

    page_size: int
    page_token: str
    exclude_post_ids: Collection[int]
    include_seen: bool
    cache_policy: CachePolicy
    explain: bool
    explain_post_ids: Collection[int]


@dataclass(frozen=True, slots=True)
class RankRequest:
    """One user and the posts to order. Ids are signed 64-bit, and 0 is a valid one.

    Attributes:
        user_id: Whose taste counts; an id that the model does not know is a cold user.
        post_ids: The candidates, 1 to 10,000: a list, a tuple, an integer array.
        limit: Return the best so many; 0 returns all.
        cache_policy: How to use the server's cache.
        model_version: Empty for the active model; else one that is resident on the server.
        exclude_seen: Drop posts that the user has liked or commented on.
        exclude_post_ids: Drop these too, up to 1,000.
        explain: Return the terms of each score, and why each dropped candidate was dropped; at most 500
            candidates then.
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
    """Whose feed, and which page of it.

    Attributes:
        user_id: Whose feed; an id that the model does not know is a cold user.
        page_size: Posts on the page at most; 0 takes the server's default, more than its maximum is that.
        page_token: The `next_page_token` of the page before; empty for the first page.
        exclude_post_ids: Leave these out, up to 1,000.
        include_seen: Keep posts that the user has liked or commented on.
        cache_policy: How to use the server's cache; matters for the first page.
        explain: Return the terms of each score.
        explain_post_ids: Say why these are not in the timeline, up to 500.
    """

    user_id: int
    page_size: int = 0
    page_token: str = ""
    exclude_post_ids: Collection[int] = ()
    include_seen: bool = False
    cache_policy: CachePolicy = CachePolicy.DEFAULT
    explain: bool = False
    explain_post_ids: Collection[int] = ()
