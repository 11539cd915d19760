"""The state of an iteration over a timeline, for both clients: the next request, and posts already shown."""

from dataclasses import replace
from itertools import islice

from grpc import StatusCode

from animora_client.errors import Internal
from animora_client.request import TimelineRequest
from animora_client.timeline import TimelinePage

MAX_EXCLUDED = 1000  # the server's maximum of exclude_post_ids
MAX_PAGE_SIZE = 2**31 - 1  # the maximum of the field


class Scroll:
    """An iteration over a timeline that shows no post twice, even if the server loses the timeline.

    Send `request` until it is None. Pass each page to `take`, and call `start_over` when the server has lost
    the timeline. All requests are derived from `first`. The iteration ends after `limit` posts; 0 for all.

    Raises:
        ValueError: The limit is below 0.
    """

    def __init__(self, first: TimelineRequest, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, not {limit}")
        self._first = first
        self._limit = limit
        self._token: str | None = first.page_token  # None when finished
        self._excluded = tuple(first.exclude_post_ids)
        self._shown: dict[int, None] = {}  # an ordered set
        self._shown_before = 0  # how many of them came from lost timelines

    @property
    def request(self) -> TimelineRequest | None:
        """The next request; None when finished."""
        if self._token is None:
            return None
        page_size = self._first.page_size
        if self._limit:
            # A page is never longer than the rest, so no post is skipped by its token.
            left = self._limit - len(self._shown)
            page_size = min(page_size or left, left, MAX_PAGE_SIZE)
        return replace(
            self._first, page_size=page_size, page_token=self._token, exclude_post_ids=self._excluded
        )

    def take(self, page: TimelinePage) -> TimelinePage:
        """Returns the page without posts that were shown before.

        Args:
            page: The response to `request`.

        Raises:
            Internal: The page names itself as the next page.
        """
        if page.next_page_token and page.next_page_token == self._token:
            raise Internal("the reply's next_page_token leads to the same page", StatusCode.INTERNAL)
        new = []
        for position, post_id in enumerate(page.post_ids):
            if post_id not in self._shown and not self._is_full():
                self._shown[post_id] = None
                new.append(position)
        self._token = None if self._is_full() else page.next_page_token or None
        return page if len(new) == len(page) else page.at(new)

    def start_over(self) -> bool:
        """Restarts at a first page that excludes the posts shown so far.

        Returns:
            Whether to continue. False if the lost timeline gave no new post, to avoid an endless loop, or if
            the iteration began with a page token, because the posts shown before it are unknown.
        """
        if self._first.page_token or len(self._shown) == self._shown_before:
            return False
        requested = self._first.exclude_post_ids
        latest = islice(reversed(self._shown), max(0, MAX_EXCLUDED - len(requested)))
        self._excluded = (*requested, *latest)
        self._shown_before = len(self._shown)
        self._token = ""
        return True

    def _is_full(self) -> bool:
        return self._limit > 0 and len(self._shown) >= self._limit
