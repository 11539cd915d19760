"""Users who scroll through their whole feed, again and again, and the history of their pages."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from animora_client import AsyncRankingClient, RankingError, SnapshotGone
from tests.support.history import History, Page


@dataclass
class Scrolls:
    """Scrolls of users through their whole feed, repeated.

    Attributes:
        clients: Clients of the servers, used in turns.
        history: Takes every page.
        page_size: Number of posts of a page.
        shown_by: Number of pages by model version; "" is the heuristic.
        lost: Number of timelines that were gone.
        completed: Number of complete scrolls by user.
        failed: Calls that failed, by error; the page is then requested again.
        degraded: Pages by the reason why the model did not rank them.
    """

    clients: Sequence[AsyncRankingClient]
    history: History
    page_size: int
    shown_by: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    completed: Counter[int] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    degraded: Counter[str] = field(default_factory=Counter)
    numbers: "count[int]" = field(default_factory=count)
    turned: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def pages(self) -> int:
        """Number of pages so far."""
        return len(self.history.pages)

    async def more(self, number: int) -> None:
        """Waits for `number` further pages."""
        target = self.pages + number
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
        scroll, shown, excluded, token = next(self.numbers), set[int](), list[int](), ""
        while True:
            client, began = self.clients[self.pages % len(self.clients)], time.monotonic()
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
                excluded, token = sorted(shown), ""
                continue
            except RankingError as error:
                self.failed[str(error)] += 1
                continue
            if page.degraded_reason is not None:
                self.degraded[str(page.degraded_reason)] += 1
            shown.update(page.post_ids)
            seen = Page(
                scroll=scroll,
                user=user,
                began=began,
                ended=time.monotonic(),
                post_ids=tuple(page.post_ids),
                scores=tuple(page.scores),
                version=page.model_version,
                is_first=not token,
                is_last=not page.next_page_token,
            )
            await self._record(seen)
            token = page.next_page_token
            if seen.is_last:
                return

    async def _record(self, page: Page) -> None:
        async with self.turned:
            self.history.pages.append(page)
            self.shown_by[page.version] += 1
            self.turned.notify_all()
