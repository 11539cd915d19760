"""The ledger of scrolls: what every page showed, checked against what was true when it was asked for."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from animora_client import AsyncRankingClient, SnapshotGone, TimelinePage

AT_ONCE = 1.0  # seconds in which a block and a deletion take effect


@dataclass
class Scrolls:
    """Users who scroll through their whole feed, again and again.

    Attributes:
        clients: Of the servers that take turns.
        authors: By post, of the posts that were there before.
        new_authors: By post, of those that have come since.
        page_size: Posts of a page.
        deleted: When each post's deletion was committed, `time.monotonic()`.
        blocked: When a block between a user and an author was committed.
        liked: Users and what they liked; from then on it need not be shown.
        pages: How many pages were seen.
        shown_by: How many pages each version of the model, or the heuristic (""), has ordered.
        newer_shown: Posts that have come since and were shown.
        lost: How many lists were lost on the way.
        completed: How many scrolls went to the end, by user.
        wrong: What must not be.
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
        """Waits until so many further pages were seen."""
        target = self.pages + count
        async with self.turned:
            await self.turned.wait_for(lambda: self.pages >= target)

    async def ordered_by(self, version: str) -> None:
        """Waits until a page was seen that this version has ordered."""
        async with self.turned:
            await self.turned.wait_for(lambda: self.shown_by[version] > 0)

    async def keep_scrolling(self, user: int, stop: asyncio.Event) -> None:
        """Scrolls to the end of a user's feed, from the top again, until told to stop at the end of one."""
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
        now = time.monotonic()  # it must not have been sent so late, and came later
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
                if since + AT_ONCE < now:
                    self.wrong.append(f"user {user}: post {post} {what} for {now - since:.1f} s")

    def _author(self, post: int) -> int:
        return self.authors[post] if post in self.authors else self.new_authors[post]

    def _check_whole(self, user: int, shown: set[int]) -> None:
        """Whatever was there before and may still be shown must have come."""
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
