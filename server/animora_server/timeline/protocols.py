"""What timelines need from the rest of the server; `app` supplies it."""

from contextlib import AbstractContextManager
from math import inf
from typing import Protocol

from animora_server.types import RankedTimeline


class TimelineStore(Protocol):
    """Stored ranked timelines. Best effort: no method raises.

    A key stands for a user, the options that a caller may choose, and a digest of the settings that shape a
    ranked timeline (`timeline.keys`). A key may have several timelines; one of them is the latest.
    """

    async def latest(self, key: bytes) -> RankedTimeline | None:
        """The newest timeline of a key by `made_at`: the last one put as latest, or the generation's."""
        ...

    async def by_id(
        self, key: bytes, timeline_id: bytes, answer_by: float = inf, written_by: float = -inf
    ) -> RankedTimeline | None:
        """The timeline of a key with a given id, which no other timeline can replace.

        Args:
            key: The key.
            timeline_id: 16 bytes.
            answer_by: Until when a store that does not answer is retried, on the event loop's clock.
            written_by: Until when a missing timeline is looked up again, on the same clock: another process
                may still be writing it.
        """
        ...

    async def put(self, key: bytes, timeline: RankedTimeline) -> bool:
        """Stores a timeline for its page tokens.

        Returns:
            Whether it can be read back; known after the store's timeout at the latest.
        """
        ...

    async def put_latest(self, key: bytes, timeline: RankedTimeline) -> bool:
        """Stores a timeline as `put` does, and makes it the key's latest."""
        ...


class RefreshCounter(Protocol):
    """Counts background refreshes."""

    def refreshed(self, why: str) -> None:
        """Counts one: "early", "stale", "newer", "restart" or "degraded"."""
        ...


class CandidateAdmission(Protocol):
    """Bounds the candidates in flight."""

    def admit_rows(self, rows: int) -> AbstractContextManager[None]:
        """Admits this many candidates for the length of the block. Raises TooManyRequests."""
        ...
