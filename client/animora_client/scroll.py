"""Which page of a timeline to ask for next, and which of its posts are new; both clients go by it."""

from dataclasses import replace
from itertools import islice

from grpc import StatusCode

from animora_client.errors import Internal
from animora_client.request import TimelineRequest
from animora_client.timeline import TimelinePage

MAX_EXCLUDED = 1000  # posts that a request may leave out
MAX_PAGE_SIZE = 2**31 - 1  # that its field holds


class Scroll:
    """One way through a user's feed, on which no post comes twice, though lists get lost.

    Ask for `request` until it is None: `take` the page that comes, and `start_over` when the server says
    that the list is gone. The scroll begins with the request `first`, which is the pattern of all others,
    and ends after `limit` posts; 0 takes all.

    Raises:
        ValueError: The limit is below 0.
    """

    def __init__(self, first: TimelineRequest, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"limit must be 0 or more, not {limit}")
        self._first = first
        self._limit = limit
        self._token: str | None = first.page_token  # None at the end
        self._excluded = tuple(first.exclude_post_ids)
        self._taken: dict[int, None] = {}  # a set that keeps its order
        self._taken_before = 0  # how many of them came from lists that are gone

    @property
    def request(self) -> TimelineRequest | None:
        """What to ask for; None at the end."""
        if self._token is None:
            return None
        page_size = self._first.page_size
        if self._limit:
            # A page is never longer than what is left, so its token leaves nothing out.
            left = self._limit - len(self._taken)
            page_size = min(page_size or left, left, MAX_PAGE_SIZE)
        return replace(
            self._first, page_size=page_size, page_token=self._token, exclude_post_ids=self._excluded
        )

    def take(self, page: TimelinePage) -> TimelinePage:
        """The page that came, less what came before.

        Raises:
            Internal: Its token leads to itself.
        """
        if page.next_page_token and page.next_page_token == self._token:
            raise Internal("the reply's next_page_token leads to the same page", StatusCode.INTERNAL)
        new = []
        for position, post_id in enumerate(page.post_ids):
            if post_id not in self._taken and not self._is_full():
                self._taken[post_id] = None
                new.append(position)
        self._token = None if self._is_full() else page.next_page_token or None
        return page if len(new) == len(page) else page.at(new)

    def start_over(self) -> bool:
        """Goes back to a first page that leaves out what was taken; whether that makes sense.

        It does not where the list that is gone gave nothing new: a server that loses lists so fast would be
        asked for ever. Nor where the scroll began with a token: what was shown before is not known here.
        """
        if self._first.page_token or len(self._taken) == self._taken_before:
            return False
        own = self._first.exclude_post_ids
        latest = islice(reversed(self._taken), max(0, MAX_EXCLUDED - len(own)))
        self._excluded = (*own, *latest)
        self._taken_before = len(self._taken)
        self._token = ""
        return True

    def _is_full(self) -> bool:
        return self._limit > 0 and len(self._taken) >= self._limit
