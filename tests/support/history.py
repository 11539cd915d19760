"""The history of what clients saw and what was committed meanwhile, and a check of the guarantees over it.

All times are of `time.monotonic()`. An operation took effect at some moment between its begin and its end.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

EFFECT_TIME = 1.0  # seconds within which a block and a deletion take effect


@dataclass(frozen=True, slots=True)
class Page:
    """A page that a client got.

    Attributes:
        scroll: The scroll that it is part of: a walk of one user from a first page to a last.
        user: The user.
        began: When it was requested.
        ended: When it had arrived.
        post_ids: Its posts, best first.
        scores: Parallel to post_ids.
        version: The model version that it names; "" is the heuristic.
        is_first: Whether it was requested without a token.
        is_last: Whether it has no token for another.
    """

    scroll: int
    user: int
    began: float
    ended: float
    post_ids: tuple[int, ...]
    scores: tuple[float, ...]
    version: str
    is_first: bool
    is_last: bool


@dataclass(frozen=True, slots=True)
class GenerationSeen:
    """Which generation a server had, by the time at which it was made; None for none."""

    server: int
    began: float
    ended: float
    made_at: float | None


@dataclass
class History:
    """Operations of clients, and writes to the database.

    Attributes:
        authors: Authors by post, of the posts that exist from the start.
        new_authors: Authors by post, of the posts created since.
        deleted: When the deletion of a post was committed.
        blocked: When the block between a user and an author was committed.
        liked: Pairs of user and liked post, which need not be shown any more.
        pages: The pages of all clients.
        generations: The generations that servers had.
    """

    authors: dict[int, int]
    new_authors: dict[int, int] = field(default_factory=dict)
    deleted: dict[int, float] = field(default_factory=dict)
    blocked: dict[tuple[int, int], float] = field(default_factory=dict)
    liked: set[tuple[int, int]] = field(default_factory=set)
    pages: list[Page] = field(default_factory=list)
    generations: list[GenerationSeen] = field(default_factory=list)

    def violations(self, effect_time: float = EFFECT_TIME) -> list[str]:
        """Every violation of a guarantee; empty if there is none.

        Args:
            effect_time: Seconds from the commit of a block or deletion to the first page without its posts.
        """
        late = [text for seconds, text in self._hidden_posts() if seconds > effect_time]
        return [
            *late,
            *(text for page in self.pages for text in self._of_page(page)),
            *(text for pages in self._scrolls() for text in self._of_scroll(pages)),
            *self._of_generations(),
        ]

    def slowest_effect(self) -> float:
        """Seconds from a commit to the latest request of a page that still had what it hides."""
        return max((seconds for seconds, _ in self._hidden_posts()), default=0.0)

    def _hidden_posts(self) -> Iterator[tuple[float, str]]:
        """Posts on pages that were requested after they were hidden: the seconds since, and what they are."""
        for page in self.pages:
            for post in page.post_ids:
                author = self.authors[post] if post in self.authors else self.new_authors[post]
                for what, since in (
                    ("has been deleted", self.deleted.get(post)),
                    ("has been of someone blocked", self.blocked.get((page.user, author))),
                ):
                    if since is not None and since < page.began:
                        seconds = page.began - since
                        yield seconds, f"user {page.user}: post {post} {what} for {seconds:.1f} s"

    def _scrolls(self) -> list[list[Page]]:
        scrolls = defaultdict(list)
        for page in self.pages:
            scrolls[page.scroll].append(page)
        return list(scrolls.values())

    def _of_page(self, page: Page) -> Iterator[str]:
        """The order of the posts."""
        if list(page.scores) != sorted(page.scores, reverse=True):
            yield f"user {page.user}: not in order"

    def _of_scroll(self, pages: list[Page]) -> Iterator[str]:
        """No post twice, one version a timeline, and every eligible post by the end."""
        user, shown = pages[0].user, set[int]()
        for page in pages:
            if len(set(page.post_ids)) != len(page.post_ids) or shown & set(page.post_ids):
                yield f"user {user}: a post came twice: {page.post_ids}"
            shown.update(page.post_ids)
        for before, after in pairwise(pages):
            if not after.is_first and before.version != after.version:
                yield f"user {user}: {after.version} follows {before.version} in one timeline"
        if pages[-1].is_last and (missing := self._eligible(user) - shown):
            yield f"user {user}: never came: {sorted(missing)}"

    def _eligible(self, user: int) -> set[int]:
        """The old posts that were eligible for a user all the time."""
        return {
            post
            for post, author in self.authors.items()
            if post not in self.deleted
            and (user, author) not in self.blocked
            and (user, post) not in self.liked
        }

    def _of_generations(self) -> Iterator[str]:
        """A server that had a generation never has an older one in an operation that began later."""
        newest: dict[int, GenerationSeen] = {}
        for seen in sorted(self.generations, key=lambda seen: seen.ended):
            before = newest.get(seen.server)
            if seen.made_at is None:
                continue
            if before is None or before.made_at is None or seen.made_at >= before.made_at:
                newest[seen.server] = seen
            elif before.ended < seen.began:
                yield f"server {seen.server}: generation {before.made_at} became generation {seen.made_at}"
