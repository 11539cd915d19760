"""Pagination: walks a ranked timeline from an offset and skips hidden posts until the page is full."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from animora_server.fast_dataclass import fast_dataclass
from animora_server.types import BoolArray, FloatArray, IntArray

# Which posts int64 (n) may be shown now: bool (n).
VisibilityCheck = Callable[[IntArray], BoolArray]
# Posts checked at once beyond the page size, so that a few hidden posts cost no second check.
MARGIN = 12


class ScoredPosts(Protocol):
    """Posts in order, best first."""

    @property
    def post_ids(self) -> IntArray:
        """int64 (n), distinct."""
        ...

    @property
    def scores(self) -> FloatArray:
        """float32 (n)."""
        ...


@fast_dataclass
class PageSlice:
    """One page.

    Attributes:
        positions: int64 (k), the posts' positions in the timeline.
        next_offset: Where the next page begins in the timeline; None if nothing is left to show.
    """

    positions: IntArray
    next_offset: int | None


def paginate(post_ids: IntArray, offset: int, size: int, shown: VisibilityCheck) -> PageSlice:
    """Cuts a page from a timeline.

    Args:
        post_ids: int64 (n), the timeline.
        offset: Where the page begins.
        size: Maximum number of posts on the page.
        shown: The visibility check; it also decides whether there is a next page.
    """
    found: list[IntArray] = []
    count = 0
    while offset < len(post_ids) and count <= size:  # one more than the page: is there another?
        chunk = post_ids[offset : offset + size + MARGIN]
        here = shown(chunk).nonzero()[0] + offset
        found.append(here)
        count += len(here)
        offset += len(chunk)
    positions = found[0] if len(found) == 1 else np.concatenate(found or [np.empty(0, np.int64)])
    page = positions[:size]
    return PageSlice(page, int(page[-1]) + 1 if count > size else None)


def paginate_merged(
    timeline: ScoredPosts, newer: ScoredPosts, size: int, shown: VisibilityCheck
) -> PageSlice:
    """Cuts the first page of a timeline with newer posts merged in by score.

    The timeline keeps its order. Newer posts that do not fit on this page are on no later page: the next
    ranked timeline holds them.

    Args:
        timeline: The timeline.
        newer: Posts that are not in the timeline, best first, with comparable scores.
        size: Maximum number of posts on the page.
        shown: The visibility check.

    Returns:
        Positions in the timeline; from the timeline's length on, in the newer posts. The offset is in the
        timeline.
    """
    post_ids = np.concatenate((timeline.post_ids, newer.post_ids))
    order = merge_order(timeline.scores, newer.scores)
    first = paginate(post_ids[order], 0, size, shown)
    positions = order[first.positions]
    if first.next_offset is None:
        return PageSlice(positions, None)
    passed = int(np.count_nonzero(order[: first.next_offset] < len(timeline.post_ids)))
    rest = paginate(timeline.post_ids, passed, 1, shown)
    return PageSlice(positions, passed if len(rest.positions) else None)


def merge_order(scores: FloatArray, newer: FloatArray) -> IntArray:
    """The merged order of a timeline and newer posts. Both keep their own order.

    A newer post goes before the first timeline post from which on no post has a higher score. So it does not
    pass a better post that comes after an explored one.

    Args:
        scores: float32 (n), the timeline's.
        newer: float32 (m), best first.

    Returns:
        int64 (n + m): positions in the timeline, and from n on in the newer posts.
    """
    best_from = np.maximum.accumulate(scores[::-1])  # worst first
    before = len(scores) - np.searchsorted(best_from, newer, side="right")
    before = np.maximum.accumulate(before)  # the newer posts may hold an explored post, too
    return np.insert(np.arange(len(scores)), before, np.arange(len(newer)) + len(scores))
