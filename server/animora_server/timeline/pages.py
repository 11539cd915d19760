"""Cutting pages from a list: from an offset on, past what must not be shown, until the page is full."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from animora_server.fast_dataclass import fast_dataclass
from animora_server.types import BoolArray, FloatArray, IntArray

# Which posts int64 (n) may be shown now: bool (n).
Shown = Callable[[IntArray], BoolArray]
# Posts looked at beyond a page's size at once: few hidden ones then cost no second look.
MARGIN = 12


class Ranked(Protocol):
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
        positions: int64 (k), the posts' places in the list.
        next_offset: Where the next page begins: how many of the list's posts had their turn. None where
            nothing is left to show.
    """

    positions: IntArray
    next_offset: int | None


def paginate(post_ids: IntArray, offset: int, size: int, shown: Shown) -> PageSlice:
    """A page of a list.

    Args:
        post_ids: int64 (n), the list.
        offset: How many of them had their turn on earlier pages.
        size: Posts on the page at most.
        shown: Says which posts may be shown, on this page and on one after it.
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


def paginate_merged(listed: Ranked, newer: Ranked, size: int, shown: Shown) -> PageSlice:
    """The first page of a list with newer posts merged in by score.

    The list keeps its order. Newer posts that do not make it to this page are left to the next list.

    Args:
        listed: The list.
        newer: Posts that are not in it, best first, scored alike.
        size: Posts on the page at most.
        shown: As for `paginate`.

    Returns:
        Positions in the list, and from its length on in the newer posts; the offset is the list's own.
    """
    post_ids = np.concatenate((listed.post_ids, newer.post_ids))
    order = merged(listed.scores, newer.scores)
    first = paginate(post_ids[order], 0, size, shown)
    positions = order[first.positions]
    if first.next_offset is None:
        return PageSlice(positions, None)
    turned = int(np.count_nonzero(order[: first.next_offset] < len(listed.post_ids)))
    rest = paginate(listed.post_ids, turned, 1, shown)
    return PageSlice(positions, turned if len(rest.positions) else None)


def merged(scores: FloatArray, newer: FloatArray) -> IntArray:
    """The order of a list and newer posts, both in an order of their own that is kept.

    A newer post goes before the first of the list's posts from which on none has a higher score: one that
    exploration has put ahead of better ones lets no more posts by than those.

    Args:
        scores: float32 (n), the list's.
        newer: float32 (m), best first.

    Returns:
        int64 (n + m): positions in the list, and from n on in the newer posts.
    """
    best_from = np.maximum.accumulate(scores[::-1])  # worst first
    before = len(scores) - np.searchsorted(best_from, newer, side="right")
    before = np.maximum.accumulate(before)  # exploration may have put one of the newer posts ahead, too
    return np.insert(np.arange(len(scores)), before, np.arange(len(newer)) + len(scores))
