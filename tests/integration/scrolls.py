"""Users who scroll, and a check of every page against the database at the time of its request."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from animora_client import AsyncRankingClient, SnapshotGone, TimelinePage

EFFECT_TIME = 1.0  # seconds within which a block and a deletion take effect


@dataclass
class Scrolls:
    """Scrolls of users through their whole feed, repeated.

    Attributes:
        clients: Clients of the servers, used in turns.
        authors: Authors by post, of the posts that exist from the start.
        new_authors: Authors by post, of the posts created since.
        page_size: Number of posts of a page.
        deleted: Commit time of each post's deletion, `time.monotonic()`.
        blocked: Commit time of each block between a user and an author.
        liked: Pairs of user and liked post, which need not be shown any more.
        pages: Number of pages so far.
        shown_by: Number of pages by model version; "" is the heuristic.
        newer_shown: Newer posts that were shown.
        lost: Number of timelines that were gone.
        completed: Number of complete scrolls by user.
        wrong: Violations.
    """

    clients: Sequence[AsyncRankingClient]
    authors: dict[int, int]
    page_size: int
    new_authors: dict[int, int] = field(default_factory=dict)
    deleted: dict[int, float] = field(default_factory=dict)
    blocked: dict[tuple[int, int], float] = field(default_factory=dict)
    liked: set[tuple[int, int]] = field(default_factory=set)
    pages: int = 0
    shown_by: Counter[str] = field(default_factory=Counter)
    newer_shown: set[int] = field(default_factory=set)
    lost: int = 0
    completed: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    turned: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def more(self, count: int) -> None:
        """Waits for `count` further pages."""
        target = self.pages + count
        async with self.turned:
            await self.turned.wait_for(lambda: self.pages >= target)

    async def ordered_by(self, version: str) -> None:
        """Waits for a page that this version has ranked."""
        async with self.turned:
            await self.turned.wait_for(lambda: self.shown_by[version] > 0)

    async def keep_scrolling(self, user: int, stop: asyncio.Event) -> None:
        """Repeats a user's scroll until `stop` is set; a scroll in progress is completed."""
        while not stop.is_set():
            await self._scroll(user)
            self.completed[user] += 1

    async def _scroll(self, user: int) -> None:
        shown: set[int] = set()
        excluded: list[int] = []
        token, version = "", None
        while True:
            client = self.clients[self.pages % len(self.clients)]
            try:
                page = await client.timeline_page(
                    user,
                    page_size=self.page_size,
                    page_token=token,
                    exclude_post_ids=excluded,
                    timeout=10,
                )
            except SnapshotGone:
                self.lost += 1
                excluded, token, version = sorted(shown), "", None
                continue
            self._check_page(user, page, shown)
            if version not in (None, page.model_version):
                self.wrong.append(f"user {user}: {page.model_version} follows {version} in one list")
            version, token = page.model_version, page.next_page_token
            shown.update(page.post_ids)
            async with self.turned:
                self.pages += 1
                self.shown_by[version] += 1
                self.turned.notify_all()
            if not token:
                break
        self._check_whole(user, shown)

    def _check_page(self, user: int, page: TimelinePage, shown: set[int]) -> None:
        now = time.monotonic()  # later than the response
        if len(set(page.post_ids)) != len(page.post_ids) or shown & set(page.post_ids):
            self.wrong.append(f"user {user}: a post came twice: {page.post_ids}")
        if page.degraded_reason is not None:
            self.wrong.append(f"user {user}: degraded, {page.degraded_reason}")
        if list(page.scores) != sorted(page.scores, reverse=True):
            self.wrong.append(f"user {user}: not in order")
        self.newer_shown.update(self.new_authors.keys() & set(page.post_ids))
        for post in page.post_ids:
            for what, since in (
                ("has been deleted", self.deleted.get(post, now)),
                ("has been of someone blocked", self.blocked.get((user, self._author(post)), now)),
            ):
                if since + EFFECT_TIME < now:
                    self.wrong.append(f"user {user}: post {post} {what} for {now - since:.1f} s")

    def _author(self, post: int) -> int:
        return self.authors[post] if post in self.authors else self.new_authors[post]

    def _check_whole(self, user: int, shown: set[int]) -> None:
        """Checks that every old post that is still eligible was shown."""
        missing = {
            post
            for post, author in self.authors.items()
            if post not in shown
            and post not in self.deleted
            and (user, author) not in self.blocked
            and (user, post) not in self.liked
        }
        if missing:
            self.wrong.append(f"user {user}: never came: {sorted(missing)}")
