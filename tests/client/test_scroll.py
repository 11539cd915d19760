"""Scroll against a server that loses timelines at any time: properties."""

from hypothesis import given
from hypothesis import strategies as st

from animora_client.ranking import Ranker
from animora_client.request import TimelineRequest
from animora_client.scroll import MAX_EXCLUDED, Scroll
from animora_client.timeline import TimelinePage

POSTS = st.integers(0, 40)
TIMELINES = st.lists(st.lists(POSTS, unique=True, max_size=30), min_size=1, max_size=6)


class Server:
    """Serves one timeline after another; each is gone after a number of its pages, `lifetimes`.

    Unlike a real server it ignores excluded posts, and its pages may be empty.
    """

    def __init__(self, timelines, lengths, lifetimes):
        self.timelines = timelines
        self.lengths = lengths  # of pages, in turn
        self.lifetimes = lifetimes
        self.current = -1
        self.requests = 0

    def answer(self, request):
        """A page, or None if its timeline is gone."""
        if not request.page_token:
            self.current = min(self.current + 1, len(self.timelines) - 1)
            self.served = 0
        last = self.current == len(self.timelines) - 1
        if not last and self.served >= self.lifetimes[self.current % len(self.lifetimes)]:
            return None
        self.served += 1
        length = self.lengths[self.requests % len(self.lengths)]
        self.requests += 1
        if request.page_size:
            length = min(length, request.page_size)
        offset = int(request.page_token.partition("/")[0] or 0)
        posts = tuple(self.timelines[self.current][offset : offset + length])
        end = offset + len(posts) >= len(self.timelines[self.current])
        token = "" if end else f"{offset + length}/{self.requests}"
        return TimelinePage(posts, (0.5,) * len(posts), Ranker.NEUCF, next_page_token=token)


def scroll_through(server, first, limit=0):
    """The posts that a caller gets, and whether the scroll reached its end."""
    scroll = Scroll(first, limit)
    posts: list[int] = []
    while (request := scroll.request) is not None:
        assert len(request.exclude_post_ids) <= MAX_EXCLUDED
        page = server.answer(request)
        if page is not None:
            posts += scroll.take(page).post_ids
        elif not scroll.start_over():
            return posts, False
    return posts, True


SERVERS = st.builds(
    Server,
    TIMELINES,
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(any),
    lifetimes=st.lists(st.integers(0, 4), min_size=1, max_size=6),
)


@given(server=SERVERS)
def test_no_post_repeats_and_the_last_timeline_is_read_to_its_end(server):
    posts, ended = scroll_through(server, TimelineRequest(7))

    assert len(posts) == len(set(posts))
    assert set(posts) <= {post for timeline in server.timelines for post in timeline}
    if ended:
        assert set(server.timelines[server.current]) <= set(posts)


@given(server=SERVERS, limit=st.integers(1, 50), page_size=st.integers(0, 9))
def test_a_scroll_returns_as_many_posts_as_its_limit_if_there_are_enough(server, limit, page_size):
    posts, ended = scroll_through(server, TimelineRequest(7, page_size=page_size), limit)

    assert len(posts) == len(set(posts)) <= limit
    if ended:
        assert len(posts) == limit or set(server.timelines[server.current]) <= set(posts)


@given(
    timelines=st.lists(st.lists(POSTS, unique=True, min_size=8), min_size=1, max_size=1),
    lifetime=st.integers(1, 3),
)
def test_a_scroll_ends_if_a_restarted_timeline_has_nothing_new(timelines, lifetime):
    server = Server(timelines * 1000, lengths=[2], lifetimes=[lifetime])

    posts, ended = scroll_through(server, TimelineRequest(7))

    assert not ended
    assert posts == timelines[0][: 2 * lifetime]
    assert server.current == 1, "the second timeline gave nothing new, so there was no third"


@given(own=st.lists(st.integers(10_000, 20_000), unique=True, max_size=MAX_EXCLUDED))
def test_a_restart_excludes_the_latest_posts_and_the_callers_own(own):
    scroll = Scroll(TimelineRequest(7, exclude_post_ids=own), limit=0)
    posts = tuple(range(1500))
    scroll.take(TimelinePage(posts, (0.5,) * 1500, Ranker.NEUCF, next_page_token="1500"))

    assert scroll.start_over()

    assert scroll.request is not None
    assert scroll.request.page_token == ""
    latest = posts[len(own) - MAX_EXCLUDED :] if len(own) < MAX_EXCLUDED else ()
    assert sorted(scroll.request.exclude_post_ids) == sorted((*own, *latest))
